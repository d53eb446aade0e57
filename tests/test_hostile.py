"""Whatever bytes lie in a file: every reader gives a value or a `StatewiseError`, nothing else.

Each reader has a file that it reads; what lies there then is any bytes at all, or that file cut
off, or with other bytes in it, or JSON with something else where a value stood.
"""

import base64
import contextlib
import copy
import gzip
import hashlib
import json
import math
import pickle
import shutil
import warnings
import zlib

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_models import tiny_model

from statewise import catalog, speed
from statewise.compat import calc_acc_aime, calc_acc_lcb, infer_longcot
from statewise.errors import StatewiseError
from statewise.eval import benchmarks, hidden, values
from statewise.eval.metrics import SetResult, summarise
from statewise.eval.regrade import grade_row, opens_thinking
from statewise.log import Log
from statewise.model import Mamba2Config
from statewise.model.checkpoint import load_model, read_config
from statewise.model.formats.convert import convert
from statewise.model.formats.files import open_source
from statewise.pipeline.folder import RunFolder
from statewise.pipeline.paired import paired
from statewise.recipe import load_eval_recipe, load_recipe
from statewise.records import (
    Completion,
    Example,
    FinishReason,
    Outcome,
    Problem,
    TestCase,
    TestsFile,
    Verdict,
    iter_rows,
    read_json,
    read_jsonl,
    read_record,
    to_json,
    write_json,
)
from statewise.sampler import SamplingParams
from statewise.synth.imports import import_problems
from statewise.text import BPETokenizer
from statewise.train.trainer import Metrics

CONFIG = Mamba2Config(
    d_model=8, n_layer=1, d_state=4, headdim=4, ngroups=1, chunk_size=4, vocab_size=264
)
PROBLEMS = [
    Problem("a", "math", "1 + 1?", "2"),
    Problem("b", "code", "Twice.", tests=(TestCase("1\n", "2\n"),), hidden=TestsFile("t", "m")),
]
COMPLETIONS = [
    Completion("a", i, "x</think>\\boxed{2}", FinishReason.STOP, 3, 4, 5) for i in (0, 1)
]
VERDICTS = [Verdict("a", i, Outcome.CORRECT, "2", "integer") for i in (0, 1)]
RESULT = summarise(PROBLEMS, COMPLETIONS, VERDICTS)
ANSWERED = {
    "prompt": "p", "source": "aime2024", "run": 0, "completion": "x</think>\\boxed{2}",
    "answer": ["2"], "reference_solution": "#### 2", "finish_reason": "stop",
    "completion_tokens": 3,
}  # fmt: skip
PROGRAM = {
    "prompt": "p", "question_id": "1", "run": "0", "tests": {"fname": "1.json", "md5": "0"},
    "completion": ["x"], "finish_reason": None, "completion_tokens": 3,
}  # fmt: skip
TESTS = {"inputs": ["1\n", "2"], "outputs": ["2\n", "4"], "fn_name": None}
CASES = '[{"input": "1", "output": "2"}]'
RELEASE = {
    **dict.fromkeys(("question_title", "question_content", "platform", "difficulty"), "x"),
    "question_id": "1", "contest_date": "2024-08-03", "starter_code": "", "metadata": "{}",
    "public_test_cases": CASES,
    "private_test_cases": base64.b64encode(zlib.compress(pickle.dumps(CASES))).decode(),
}  # fmt: skip
UNPACKED = {**RELEASE, "tests": {"fname": "1.json", "md5": "0"}}
PUBLISHED = {"problem": "What is 1 + 1?", "solution": "It is 2.", "answer": "2"}


def nothing(*_):
    return True


PLAN = infer_longcot.Plan([{"prompt": "p"}], ["p"], SamplingParams(n=1), 1)


def longcot_settings():
    return {"rows": 1, "params": infer_longcot._settings(PLAN)}


def longcot_partial(path):
    output = path.with_name("o.jsonl")
    try:
        return infer_longcot.infer(Sampled(), PLAN, output)
    finally:
        output.unlink(missing_ok=True)


class Sampled:
    def sample(self, prompts, params):
        for prompt in prompts:
            yield Completion(prompt.id, 0, "x", FinishReason.STOP, 1, 1, params.seed)


def with_its_md5(path):
    digest = hashlib.md5(path.read_bytes(), usedforsecurity=False).hexdigest()
    return hidden.read(TestsFile(str(path), digest))


def release(path):
    made = path.parents[1] / "livecodebench" / "made_from.json"
    made.write_text("{}")
    hidden.unpack_if_there(path.parents[1])


def packed(path):
    return list(benchmarks._problems(benchmarks.BENCHMARKS["livecodebench"], path))


def scores(path):
    argv = ["--input_path", str(path), "--expected_runs", "1", "--published-scoring"]
    assert calc_acc_aime.main(argv) in (0, 1)


def lcb(path):
    cache = path.with_name("cache.jsonl")
    cache.unlink(missing_ok=True)
    argv = ["--input_path", str(path), "--cache_path", str(cache)]
    assert calc_acc_lcb.main(argv) in (0, 1)


def everything(path):
    source = open_source(path)
    return [source.read(name) for name in source]


def as_gguf(folder):
    target = folder.parent / "m.gguf"
    try:
        return convert(folder, target, "gguf")
    finally:
        target.unlink(missing_ok=True)


def from_gguf(path):
    target = path.parent / "made"
    try:
        return convert(path, target, "hf")
    finally:
        shutil.rmtree(target, ignore_errors=True)


def imported(path):
    import_problems(
        path, path.parent / "imported", name="s", tests={"t": ["1 + 2"]}, jaccard=0.7,
        containment=0.5,
    )  # fmt: skip


def in_its_folder(read):
    return lambda path: read(path.parent)


# name: the file, and what reads it.
READERS = {
    "iter_rows": ("rows.jsonl", lambda p: list(iter_rows(p))),
    "read_json": ("result.json", read_json),
    "read_jsonl": ("problems.jsonl", lambda p: read_jsonl(p, Problem)),
    "verdicts": ("verdicts.jsonl", lambda p: read_jsonl(p, Verdict)),
    "examples": ("examples.jsonl", lambda p: read_jsonl(p, Example)),
    "metrics": ("metrics.jsonl", lambda p: read_jsonl(p, Metrics)),
    "read_record": ("result.json", lambda p: read_record(p, SetResult)),
    "Log": ("completions.jsonl", lambda p: Log(p, Completion, lambda c: c.prompt_id).close()),
    "Log of objects": ("rows.jsonl", lambda p: Log(p, dict, lambda row: row["run"]).close()),
    "load_problems": ("problems.jsonl", benchmarks.load_problems),
    "catalog": ("recipe.toml", catalog.read),
    "recipe": ("recipe.toml", load_recipe),
    "eval recipe": ("eval.toml", load_eval_recipe),
    "config.json": ("hf/config.json", in_its_folder(read_config)),
    "config.json of mamba_ssm": ("ssm/config.json", in_its_folder(read_config)),
    "params.json": ("mistral/params.json", in_its_folder(read_config)),
    "safetensors": ("hf/model.safetensors", in_its_folder(load_model)),
    "index": ("shards/model.safetensors.index.json", in_its_folder(load_model)),
    "pickle": ("ssm/pytorch_model.bin", in_its_folder(load_model)),
    "gguf": ("written.gguf", everything),
    "convert of gguf": ("written.gguf", from_gguf),
    "tokenizer.json": ("hf/tokenizer.json", in_its_folder(BPETokenizer.load)),
    "tokenizer_config.json": ("hf/tokenizer_config.json", in_its_folder(BPETokenizer.load)),
    "generation_config.json": ("hf/generation_config.json", in_its_folder(BPETokenizer.load)),
    "convert": ("hf/tokenizer.json", in_its_folder(as_gguf)),
    "hidden tests": ("1.json", with_its_md5),
    "release": ("code_generation_lite/test.jsonl", release),
    "made_from.json": ("livecodebench/made_from.json", lambda p: hidden.unpack_if_there(
        p.parents[1]
    )),
    "packed": ("livecodebench/packed.jsonl", packed),
    "unpacked": ("livecodebench/problems.jsonl", packed),
    "grade": ("answered.jsonl", lambda p: [
        grade_row(row, where, "several", nothing, opened=opens_thinking(p))
        for where, row in iter_rows(p)
    ]),
    "calc_acc_aime": ("answered.jsonl", scores),
    "calc_acc_lcb": ("programs.jsonl", lcb),
    "infer_longcot": ("answered.jsonl", infer_longcot.read_prompts),
    "infer_longcot's partial file": ("o.jsonl.partial", longcot_partial),
    "imports": ("published.jsonl", imported),
    "run.json": ("run/run.json", lambda p: RunFolder(p.parent).stages()),
    "bench.json": ("bench.json", speed.read),
    "paired": ("a/set/result.json", lambda p: paired(p.parents[1], p.parents[2] / "b")),
    "settings": ("a/set/settings.json", lambda p: paired(p.parents[1], p.parents[2] / "b")),
}  # fmt: skip


def write_all(folder):
    """One good file for each reader."""
    for name, rows in {
        "rows": [{"run": 0, "x": [1.5, {"y": None}]}, {"run": 1}],
        "problems": PROBLEMS, "completions": COMPLETIONS, "verdicts": VERDICTS,
        "examples": [Example("p", "c")], "metrics": [Metrics("p", 1, 2, 3.0, 4.0, 5.0, 6.0)],
        "answered": [ANSWERED], "programs": [PROGRAM], "published": [PUBLISHED],
    }.items():  # fmt: skip
        lines = (json.dumps(r if isinstance(r, dict) else to_json(r)) + "\n" for r in rows)
        (folder / f"{name}.jsonl").write_text("".join(lines))
    write_json(folder / "result.json", to_json(RESULT))
    for side in "ab":
        write_json(folder / side / "set" / "result.json", to_json(RESULT))
        write_json(folder / side / "set" / "settings.json", {"problems": "x"})
    (folder / "recipe.toml").write_text('base = "mini"\nseed = 3\n[engine]\nslots = 2\n')
    (folder / "eval.toml").write_text(
        'name = "e"\n[checkpoint]\npath = "m"\n[eval]\nbenchmarks = ["gsm8k"]\n'
    )
    write_json(folder / "run" / "run.json", {"stages": {"a": {"inputs": "x", "done": True,
                                                              "wall_s": 1.0}}})  # fmt: skip
    write_json(folder / "1.json", {"input_output": json.dumps(TESTS)})
    for name, row in (("code_generation_lite/test", RELEASE), ("livecodebench/problems", UNPACKED)):
        (folder / name).parent.mkdir()
        (folder / f"{name}.jsonl").write_text(json.dumps(row) + "\n")
    write_json(folder / "livecodebench" / "made_from.json", {"test.jsonl": 0})
    packed = gzip.compress(json.dumps(UNPACKED).encode())
    (folder / "livecodebench" / "packed.jsonl").write_bytes(packed)
    tokenizer = BPETokenizer.train(["1 + 1 = 2"], vocab_size=264)
    model = tiny_model(CONFIG)
    model.save(folder / "hf", tokenizer)
    model.save(folder / "shards", tokenizer, max_shard_bytes=4_000)
    write_json(folder / "hf" / "generation_config.json", {"eos_token_id": [0, 1]})
    convert(folder / "hf", folder / "ssm", "mamba_ssm")
    weights = dict(load_model(folder / "hf").state_dict())
    (folder / "ssm" / "model.safetensors").unlink(missing_ok=True)
    torch.save(weights, folder / "ssm" / "pytorch_model.bin")
    convert(folder / "hf", folder / "written.gguf", "gguf")
    write_json(folder / "mistral" / "params.json", {
        "dim": 32, "n_layers": 1, "n_groups": 1, "vocab_size": 264, "rms_norm": True,
        "tie_embeddings": False, "model_type": "mamba", "pad_vocab_size_multiple": 1,
    })  # fmt: skip
    side = speed.Speed(batch=8, step_s=(1.0, 2.0), memory_bytes=1, floor_bytes=1, parity=0.0)
    row = speed.BenchRow(8, dict.fromkeys((speed.OURS, speed.IN_TORCH), side))
    bench = speed.Bench(2, "float32", 1.0, "", "x", (row,), 1, 1, (row,))
    speed.write(folder / "bench.json", bench)
    lines = [{"settings": longcot_settings()}, {"completion": "x", "run": 0, "index": 0,
                                                "valid": True}]  # fmt: skip
    (folder / "o.jsonl.partial").write_text("".join(json.dumps(line) + "\n" for line in lines))


HUGE = b"9" * 5_000
SNIPPETS = [
    b"\0", b"\xff", b"\x1f\x8b", b"\xef\xbb\xbf", b"\xed\xa0\xbd", b"\\ud83d", b"\\udc00\\ud83d",
    b'"', b"[", b"}", b"\n", b"\r\n", b"\n\n{}\n", b"NaN", b"-Infinity", b"1e999", b"-1", b"inf",
    HUGE, b'"' + HUGE + b'"', b"[" * 2_000, b"[" * 100_000, b"[" * 2_000 + b"]" * 2_000,
    b'{"a":' * 300 + b"1" + b"}" * 300, "\u2028".encode(), "é".encode("utf-16"), b"a.b = 1",
    b"a." * 2_000 + b"a = 1\n",
]  # fmt: skip
SNIPPET = st.sampled_from(range(len(SNIPPETS))).map(SNIPPETS.__getitem__)
WRONG = st.sampled_from([
    None, True, False, 0, -1, 1, 10**30, -(10**400), 0.5, 1e308, math.inf, math.nan, "", "0", "x",
    "\ud83d", "a\0b", "1e5", "../x", "[" * 3_000, "é" * 300, [], [[]], [None], ["2", "3"], {},
    {"a": 1}, {"\ud83d": []}, [0] * 300, "9" * 5_000, {"": {"": {"": None}}},
])  # fmt: skip


def places(value, place=()):
    """Where every value of a JSON document stands."""
    yield place
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from places(inner, (*place, key))


def with_other(document, place, other, gone):
    """A document with another value at a place, or with nothing there."""
    if not place:
        return other
    document = copy.deepcopy(document)
    *above, last = place
    parent = document
    for key in above:
        parent = parent[key]
    if gone:
        del parent[last]
    else:
        parent[last] = other
    return document


@st.composite
def reshaped(draw, good):
    """Good JSON in which some values are others."""
    lines = (
        [json.loads(line) for line in good.decode().split("\n") if line] if b"\n{" in good else []
    )
    document = lines or json.loads(good)
    for _ in range(draw(st.integers(1, 2))):
        place = draw(st.sampled_from(list(places(document))))
        if place in ((), (0,)) and lines:
            continue
        document = with_other(document, place, draw(WRONG), draw(st.integers(0, 3)) == 0)
        if not isinstance(document, dict | list):
            break
    if lines:
        return "".join(json.dumps(row) + "\n" for row in document).encode()
    return json.dumps(document).encode()


@st.composite
def damaged(draw, good):
    """A good file, cut off or with other bytes in it."""
    start = draw(st.integers(0, min(len(good), draw(st.sampled_from([40, 400, 1 << 30])))))
    kept = draw(st.sampled_from([0, 1, 8, 1 << 30]))
    inserted = draw(st.just(b"") | SNIPPET | st.binary(min_size=1, max_size=8))
    return good[:start] + inserted + (good[start + kept :] if kept < 1 << 30 else b"")


def hostile(good, is_json):
    kinds = [st.binary(max_size=60), damaged(good), damaged(good)]
    return st.one_of(*kinds, *([reshaped(good)] * 3 if is_json else []))


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    write_all(folder)
    return folder


@pytest.fixture(autouse=True)
def _no_processes(monkeypatch):
    monkeypatch.setattr(calc_acc_aime, "compare", nothing)


@pytest.mark.parametrize("name", READERS)
def test_the_good_file_is_read(good, name):
    file, read = READERS[name]
    before = (good / file).read_bytes()
    try:
        read(good / file)
    finally:
        (good / file).parent.mkdir(exist_ok=True)
        (good / file).write_bytes(before)


def read_or_refused(name, path, data):
    """What a reader makes of some bytes, as `StatewiseError` or not; the file is mended after."""
    before = path.read_bytes()
    path.write_bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            READERS[name][1](path)
    except StatewiseError as e:
        return e
    finally:
        path.write_bytes(before)
    return None


def test_a_kept_recipe_that_is_no_text_is_moved_aside(tmp_path):
    (tmp_path / "recipe.toml").write_bytes(b"\xff")
    RunFolder(tmp_path).set_recipe("seed = 1\n")
    assert (tmp_path / "recipe.toml").read_text() == "seed = 1\n"
    assert (tmp_path / "recipe.toml.old-1").read_bytes() == b"\xff"


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_one_strange_thing_is_a_value_or_an_error(good, name, capsys):
    path = good / READERS[name][0]
    for snippet in SNIPPETS:
        read_or_refused(name, path, snippet)
    capsys.readouterr()


HUGE_FLOAT = b"1" + b"0" * 400


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("config.json", b"1e-05", HUGE_FLOAT),
        ("config.json", b'"__float__": "Infinity"', b'"__float__": ' + HUGE_FLOAT),
        ("config.json", b"0.0,", b"0.0, " + HUGE_FLOAT + b", "),
        ("recipe", b"[engine]", b"[train]\ngrad_clip = " + HUGE_FLOAT + b"\n[engine]"),
        ("recipe", b"seed = 3", b"seed = " + HUGE),
        ("recipe", b"seed = 3", b"seed = " + b"[" * 3_000),
        ("index", b"model-00001-of", b"x" * 300),
        ("release", b'"question_id": "1"', b'"question_id": "\\ud83d"'),
        ("release", b'"question_id": "1"', b'"question_id": "a\\u0000b"'),
        ("release", b'"question_id": "1"', b'"question_id": ' + HUGE_FLOAT),
        ("Log of objects", b'"run": 0', b'"run": []'),
        ("paired", b'"per_problem": {', b'"per_problem": [{'),
        ("paired", b'"per_problem"', b'"per"'),
        ("settings", b"problems", b"x"),
        ("hidden tests", b'"{', b'"' + b"[" * 3_000),
        ("infer_longcot's partial file", b'"valid"', b'"x"'),
        ("tokenizer_config.json", b"<|endoftext|>", b"\\ud83d"),
        ("generation_config.json", b"0,", b"-1,"),
    ],
)
def test_what_was_once_a_traceback_is_an_error_that_names_the_file(good, name, old, new, capsys):
    path = good / READERS[name][0]
    data = path.read_bytes()
    assert old in data
    error = read_or_refused(name, path, data.replace(old, new, 1))
    assert str(path.parent) in str(error)
    capsys.readouterr()


@pytest.mark.parametrize("name", READERS)
def test_a_file_of_anything_is_a_value_or_an_error_that_a_person_can_read(good, name, capsys):
    path = good / READERS[name][0]
    before = path.read_bytes()

    @settings(
        max_examples=settings().max_examples * 3 // 5, suppress_health_check=list(HealthCheck)
    )
    @given(data=hostile(before, before[:1] == b"{"))
    def never_raises_anything_else(data):
        read_or_refused(name, path, data)

    never_raises_anything_else()
    capsys.readouterr()


@given(st.binary(max_size=60).map(lambda b: b.decode("latin-1")) | st.text() | reshaped(
    values.encode([{"a": (1, 2.5)}, {3}, b"x", 1j, 10**5_000, frozenset("a")]).encode()
).map(bytes.decode))  # fmt: skip
def test_an_encoded_value_is_decoded_or_refused(text):
    with contextlib.suppress(ValueError):
        values.decode(text)


@pytest.mark.parametrize(
    "text", ['{"complex":[1' + "0" * 400 + ",0]}", "9" * 5_000, "[" * 3_000, '{"set":[[1]]}']
)
def test_an_encoded_value_that_python_cannot_make_is_refused(text):
    with pytest.raises(ValueError):  # noqa: PT011
        values.decode(text)
