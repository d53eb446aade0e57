"""The command line: argument parsing and messages, nothing else."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from statewise.errors import ConfigError, StatewiseError

DEFAULT_RECIPE = "mini"
STAGES = {
    "run": "all stages: synth, train, eval, compare, bench, report",
    "synth": "write and judge problems, solve them, import published ones",
    "train": "train the tokenizer and the model through the curriculum",
    "eval": "ask the trained model, or one that is there already, held-out sets and benchmarks",
    "compare": "train and ask the models that the claims are held against",
    "bench": "measure speed and memory against length, beside a Transformer",
    "report": "write report.md, report.json and report.html from what the folder holds",
}


def build_parser() -> argparse.ArgumentParser:
    """Every command and flag there is."""
    parser = argparse.ArgumentParser(
        prog="statewise", description="Language models that reason without attention."
    )
    parser.add_argument("--version", action="store_true", help="print the version and leave")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND")
    for name, text in STAGES.items():
        command = commands.add_parser(name, help=text, description=text)
        _add_recipe(command)
        command.add_argument("--out", type=Path, help="run folder; runs/<name>-<hash> by default")
        command.add_argument(
            "--sandbox",
            choices=("auto", "none"),
            default="auto",
            help="none: run programs that a model wrote with your rights, unprotected",
        )
    text = "print a recipe's sizes and memory without training"
    check = commands.add_parser("check", help=text, description=text)
    _add_recipe(check)
    check.add_argument(
        "--world", type=int, default=1, metavar="N", help="processes that train, one a device"
    )
    check.add_argument(
        "--device-memory",
        metavar="SIZE",
        help="of one GPU, such as 80GB: say whether training fits and, if not, what would make it",
    )
    text = "list the recipes of the package, with what they need and how long they take"
    commands.add_parser("recipes", help=text, description=text)
    text = "stream one answer to a problem"
    generate = commands.add_parser("generate", help=text, description=text)
    _add_sampling(generate)
    generate.add_argument("problem", metavar="PROBLEM", help="the problem's text")
    text = "answer problems as they are typed, each on its own"
    _add_sampling(commands.add_parser("chat", help=text, description=text))
    text = "write a checkpoint in the layout of transformers, mamba_ssm or llama.cpp"
    _add_conversion(commands.add_parser("convert", help=text, description=text))
    text = "grade answers that lie in a file: rows with completion and answer"
    _add_grading(commands.add_parser("grade", help=text, description=text))
    text = "compare two evaluations of the same problems, problem by problem"
    pair = commands.add_parser("paired", help=text, description=text)
    for name in ("a", "b"):
        pair.add_argument(name, metavar=name.upper(), type=Path, help="what statewise eval wrote")
    pair.add_argument("--out", type=Path, help="the differences as JSON")
    text = "say how programs are isolated on this machine"
    commands.add_parser("sandbox", help=text, description=text)
    return parser


def _add_recipe(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "recipe",
        nargs="?",
        default=DEFAULT_RECIPE,
        help="a .toml file, or the name of a recipe of the package (`statewise recipes` lists "
        f"them); default: {DEFAULT_RECIPE}",
    )
    command.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        dest="assignments",
        help="change one key of the recipe, such as train.phases.0.lr=1e-3; once for each key",
    )


def _add_sampling(command: argparse.ArgumentParser) -> None:
    command.add_argument("checkpoint", metavar="CHECKPOINT", help="a model's folder or hub id")
    command.add_argument("--kind", choices=("math", "code"), default="math")
    command.add_argument("--max-tokens", type=int, default=1024)
    command.add_argument("--temperature", type=float, default=0.8)
    command.add_argument("--top-p", type=float, default=0.95)
    command.add_argument("--seed", type=int, default=0)
    command.add_argument(
        "--weights",
        choices=("model", "int8"),
        default="model",
        help="int8: decode with 8-bit projections, faster on a CPU and slightly less exact",
    )
    command.add_argument(
        "--backend",
        choices=("auto", "cpu", "triton", "mamba_ssm", "fla", "torch"),
        default="auto",
        help="whose kernels compute: the CPU's, on a GPU Triton's or another package's, or torch",
    )
    _add_placing(command)


def _add_placing(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        choices=("auto", "cpu", "cuda"),
        default="auto",
        help="auto: a GPU if there is one",
    )
    command.add_argument(
        "--state",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="dtype of the recurrent state; 16 bits on a GPU: half the memory and traffic",
    )


def _add_conversion(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "source", metavar="SRC", help="a model's folder (any layout), hub id, or GGUF file"
    )
    command.add_argument(
        "target", metavar="DST", type=Path, help="the new folder (for gguf: file); must not exist"
    )
    command.add_argument(
        "--to", choices=("hf", "mamba_ssm", "gguf"), required=True, help="the layout to write"
    )
    command.add_argument(
        "--dtype",
        choices=("f32", "bf16", "f16", "q8_0"),
        help="of the large weights; as stored by default. q8_0 is of gguf alone",
    )


def _add_grading(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "file", metavar="FILE", type=Path, help="JSONL; answer may be in reference_solution"
    )
    command.add_argument(
        "--out", type=Path, required=True, help="the rows with outcome, extracted and rule"
    )
    command.add_argument(
        "--kind",
        choices=("math", "integer", "several"),
        default="math",
        help="how answers are compared: any equal form, integers alone, several in any order",
    )
    command.add_argument(
        "--form",
        choices=("think", "plain"),
        help="plain: the prompts opened no think block, so a text without one is all answer; by "
        "default think where any row has a think tag, else plain",
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; the exit code is 0, 1 for an error that was told, 130 for Ctrl-C."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    if arguments.version:
        from statewise import __version__

        print(f"statewise {__version__}")
        return 0
    if arguments.command is None:
        parser.print_help()
        return 2
    _keep_freed_memory()
    try:
        _dispatch(arguments)
    except StatewiseError as e:
        return _told(f"error: {e}", 1)
    except KeyboardInterrupt:
        resumes = arguments.command in STAGES
        more = "; the same command goes on where this one stopped" if resumes else ""
        return _told(f"interrupted{more}", 130)
    except BrokenPipeError:  # the reader of our output has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as e:  # no room, no permission, a file where a folder should be
        where = f"{e.filename}: " if e.filename else ""
        return _told(
            f"error: {where}{e.strerror or e}; what was written before is kept: mend this and "
            "give the same command again",
            1,
        )
    return 0


def _keep_freed_memory() -> None:
    """Tell glibc to reuse large blocks instead of returning them to the system.

    A block above 32 MiB is mapped afresh each time, and touching new pages costs more than most
    tensor operations on them.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):  # another system, another allocator
        return
    threshold, trim, top_pad = -3, -1, -2  # M_MMAP_THRESHOLD, M_TRIM_THRESHOLD, M_TOP_PAD
    mallopt(threshold, 1 << 30)
    mallopt(trim, (1 << 31) - 1)
    mallopt(top_pad, 64 << 20)


def _told(message: str, code: int) -> int:
    print(f"statewise: {message}", file=sys.stderr)
    return code


def _dispatch(arguments: argparse.Namespace) -> None:
    if arguments.command in STAGES:
        _run(arguments)
    elif arguments.command == "check":
        from statewise.pipeline.check import describe, device_bytes
        from statewise.recipe import load_recipe

        told = arguments.device_memory
        memory = None if told is None else device_bytes(told)
        recipe = load_recipe(arguments.recipe, arguments.assignments)
        print(describe(recipe, world=arguments.world, device_memory=memory))
    elif arguments.command == "recipes":
        from statewise.catalog import listing

        print(listing())
    elif arguments.command == "generate":
        _answer(arguments, [arguments.problem])
    elif arguments.command == "convert":
        _convert(arguments)
    elif arguments.command == "grade":
        _grade(arguments)
    elif arguments.command == "sandbox":
        _sandbox()
    elif arguments.command == "paired":
        from statewise.pipeline.paired import as_table, paired
        from statewise.records import write_json

        rows = paired(arguments.a, arguments.b)
        print(as_table(rows))
        if arguments.out is not None:
            write_json(arguments.out, rows)
    else:
        _answer(arguments, iter(_typed, None))


def _sandbox() -> None:
    from statewise.sandbox import isolation, rate

    here = isolation()
    print(f"isolation: {here.kind} ({here.detail})")
    if here.kind != "none":
        threads = len(os.sched_getaffinity(0))
        print(f"an empty program: {rate(threads):.0f} a second, {threads} at once")


def _run(arguments: argparse.Namespace) -> None:
    from statewise.recipe import load_eval_recipe, load_recipe

    if arguments.sandbox == "none":
        from statewise.sandbox import without_isolation

        without_isolation()
        _told("warning: --sandbox none: programs that a model wrote run with your rights", 0)
    if arguments.command == "eval":
        evaluation = load_eval_recipe(arguments.recipe, arguments.assignments)
        if evaluation is not None:
            from statewise.pipeline.evaluate import evaluate_checkpoint

            out = arguments.out or evaluation.default_out
            print(f"{evaluation.name}  recipe {evaluation.sha256[:8]}  in {out}", flush=True)
            page = evaluate_checkpoint(evaluation, out, lambda line: print(line, flush=True))
            print(f"report: {page}")
            return
    from statewise.pipeline import processes, run_stages

    recipe = load_recipe(arguments.recipe, arguments.assignments)
    out = arguments.out or recipe.default_out
    first = processes.index() == 0

    def say(line: str) -> None:
        if first:
            print(line, flush=True)

    say(f"{recipe.name}  recipe {recipe.sha256[:8]}  in {out}")
    run_stages(recipe, out, arguments.command, say)
    if arguments.command in ("run", "report"):
        say(f"report: {out / 'report.html'}")


def _convert(arguments: argparse.Namespace) -> None:
    from statewise.model import checkpoint
    from statewise.model.formats.convert import convert
    from statewise.text import BPETokenizer

    origin, eos_id = Path(arguments.source), None
    end_ids: tuple[int, ...] = ()
    if not (origin.is_file() and origin.suffix == ".gguf"):
        origin = checkpoint.locate(arguments.source)
    if (origin / "tokenizer.json").is_file():
        tokenizer = BPETokenizer.load(origin)
        config = checkpoint.read_config(origin)
        checkpoint.check_tokenizer(tokenizer, config, str(origin / "tokenizer.json"))
        eos_id = tokenizer.eos_id  # never from a config.json: published ones have it wrong
        end_ids = tokenizer.end_ids
    written = convert(
        origin, arguments.target, arguments.to, arguments.dtype, eos_id=eos_id, end_ids=end_ids
    )
    print(f"{arguments.target}: {written.tensors} tensors, {written.nbytes:,} bytes")
    if written.without:
        print(f"it has {written.without}")


def _grade(arguments: argparse.Namespace) -> None:
    from statewise import progress
    from statewise.eval.regrade import grade_file, opens_thinking
    from statewise.records import iter_rows

    total = sum(1 for _ in iter_rows(arguments.file))
    tagged = opens_thinking(arguments.file)
    if total and not tagged:
        told = {
            None: "all of it is answer, as with --form plain",
            "plain": "all of it is answer",
            "think": "with --form think that is thinking which never ended: give --form plain",
        }[arguments.form]
        print(f"{arguments.file}: no row has a think tag; {told}")
    with progress.task("grade", total, "answers") as shown:
        counts = grade_file(
            arguments.file,
            arguments.out,
            kind=arguments.kind,
            opened=tagged if arguments.form is None else arguments.form == "think",
            progress=shown.update,
        )
    rows = sum(counts.values())
    told = ", ".join(f"{n:,} {name}" for name, n in sorted(counts.items()))
    print(f"{arguments.out}: {rows:,} rows: {told}")
    scored = rows - counts["unscored"]
    if counts["truncated"]:
        share = 100 * counts["truncated"] / rows
        print(
            f"{share:.1f} % were truncated: the token limit, an interruption, or thinking that was "
            "never closed"
        )
    if scored:
        print(f"{100 * counts['correct'] / scored:.1f} % of the {scored:,} scored are correct")


def _typed() -> str | None:
    try:
        return input("problem> ")
    except EOFError:
        return None


def _answer(arguments: argparse.Namespace, problems: object) -> None:
    if arguments.command == "generate" and not arguments.problem.strip():
        raise ConfigError("PROBLEM: is empty; write the problem's text after the checkpoint")
    folder = Path(arguments.checkpoint)
    if (folder / "run.json").exists():
        inside = [str(p) for p in sorted((folder / "train").glob("after-*"))] or ["not there yet"]
        raise ConfigError(f"{folder}: is a run's folder; its checkpoints: {', '.join(inside)}")
    import statewise
    from statewise.sampler import SamplingParams
    from statewise.text import chat_prompt

    params = SamplingParams(
        max_tokens=arguments.max_tokens,
        temperature=arguments.temperature,
        top_p=arguments.top_p,
        seed=arguments.seed,
    )
    model, tokenizer = statewise.load(
        arguments.checkpoint, device=arguments.device, backend=arguments.backend
    )
    engine = statewise.Engine(
        model, tokenizer, slots=1, weights=arguments.weights, state=arguments.state
    )
    for problem in problems:  # type: ignore[attr-defined]
        if problem.strip():
            for piece in engine.stream(chat_prompt(problem.strip(), arguments.kind), params):
                print(piece, end="", flush=True)
            print()


if __name__ == "__main__":
    sys.exit(main())
