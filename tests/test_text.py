"""Tokenizers, the chat form, and what an answer is made of."""

import json
import time
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise.errors import ConfigError, DataError
from statewise.text import (
    SPECIAL_TOKENS,
    Answer,
    BPETokenizer,
    PromptConfig,
    boxed_answer,
    boxes_of_last_sentence,
    chat_prompt,
    last_boxed,
    last_code_block,
    split_thinking,
    words,
)

TEXT = st.text(st.characters(exclude_categories=["Cs"]))
CORPUS = ["The sum of 17 and 25 is 42, since 17 + 25 = 42.", "What is gcd(12, 18)?  It is 6.\n"] * 3


@pytest.fixture(scope="module")
def tokenizer():
    return BPETokenizer.train(CORPUS, vocab_size=300)


def test_the_forms_of_prompts_are_frozen():
    box = r"Please reason step by step, and put your final answer within \boxed{}."
    assert PromptConfig("plain").render("What is 2 + 2?", "math") == (
        f"<|im_start|>user\nWhat is 2 + 2?\n{box}<|im_end|>\n<|im_start|>assistant\n"
    )
    assert PromptConfig().render("All of it.", "math", instructed=True) == (
        "<|im_start|>user\nAll of it.<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    own = PromptConfig("own", "[INST] {message} [/INST]", math="Answer in {}.")
    assert own.render("A set {1}?", "math") == "[INST] A set {1}?\nAnswer in {}. [/INST]"
    assert own.render("{message}", "math") == "[INST] {message}\nAnswer in {}. [/INST]"
    opened = [PromptConfig(), PromptConfig("plain"), own, PromptConfig("own", "{message}<think>\n")]
    assert [p.opens_thinking for p in opened] == [True, False, False, True]


@pytest.mark.parametrize(
    ("made", "told"),
    [(lambda: PromptConfig("own"), "that form needs it"),
     (lambda: PromptConfig("plain", "{message}"), 'belongs to form = "own"'),
     (lambda: PromptConfig("own", "no place"), "must have {message} once"),
     (lambda: PromptConfig("own", "{message}{message}"), "must have {message} once")],
)  # fmt: skip
def test_a_template_without_a_place_for_the_problem_is_refused(made, told):
    with pytest.raises(ConfigError, match=told):
        made()


def test_the_chat_prompt_is_frozen():
    assert chat_prompt("What is 2 + 2?") == (
        "<|im_start|>user\n"
        "What is 2 + 2?\n"
        "Please reason step by step, and put your final answer within \\boxed{}.<|im_end|>\n"
        "<|im_start|>assistant\n"
        "<think>\n"
    )
    assert chat_prompt("Add two numbers.", "code") == (
        "<|im_start|>user\n"
        "Add two numbers.\n"
        "Write a Python program that reads standard input and prints the answer; "
        "put it in one fenced python block.<|im_end|>\n"
        "<|im_start|>assistant\n"
        "<think>\n"
    )
    assert chat_prompt("Complete f.", "function") == (
        "<|im_start|>user\n"
        "Complete f.\n"
        "Write the whole function or class in Python, with the imports it needs; "
        "put it in one fenced python block.<|im_end|>\n"
        "<|im_start|>assistant\n"
        "<think>\n"
    )


@pytest.mark.parametrize(
    ("completion", "expected"),
    [
        ("so it is 4.\n</think>\nThe answer is 4.", Answer("so it is 4.", "The answer is 4.")),
        ("<think>\nso\n</think>\n4", Answer("so", "4")),
        ("a </think> b </think> c", Answer("a </think> b", "c")),
        ("never closed", Answer("never closed", None)),
        ("<think>never closed", Answer("never closed", None)),
        ("</think>4", Answer("", "4")),
        ("", Answer("", None)),
    ],
)
def test_thinking_ends_at_its_last_mark(completion, expected):
    assert split_thinking(completion) == expected


@given(TEXT, TEXT.filter(lambda t: "</think>" not in t))
def test_what_is_visible_stands_after_the_thinking(thinking, visible):
    assert split_thinking(f"{thinking}</think>{visible}").visible == visible.strip()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (r"\boxed{42}", "42"),
        (r"\boxed{1} then \boxed{ 2 }", "2"),
        (r"\boxed{\frac{1}{2}}", r"\frac{1}{2}"),
        (r"\fbox{3}", "3"),
        (r"\boxed {5}", "5"),
        (r"\boxed{\{1, 2\}}", r"\{1, 2\}"),
        (r"\boxed{7} and \boxed{8", None),  # what it settled on is not known
        (r"\boxed{\boxed{2}", None),
        (r"\boxed{3+\boxed{2}}", r"3+\boxed{2}"),
        (r"\boxed 2^3", None),
        (r"\boxed 42.", "42"),
        (r"$\boxed5$", "5"),
        (r"\boxed -1,000 is it", "-1,000"),
        (r"\\boxed{42}", "42"),
        (r"\\boxed {42}", "42"),
        (r"\\fbox{42}", "42"),
        (r"\\fbox 42", "42"),
        (r"\\boxed42", "42"),
        (r"\\boxed -42", "-42"),
        (r"\\boxed+42", "+42"),
        ("\\boxed\n{4\n2}", "4\n2"),
        (r"\boxed{\\{42}", None),
        (r"\boxed{\}}", r"\}"),
        (r"\boxed{42}, marked with \boxed as asked", "42"),
        (r"\boxed{42}}", "42"),
        (r"\boxed{}", None),
        (r"\boxed{1} \boxed{ }", None),
        ("42", None),
        ("", None),
        ("\\boxed{3\\", None),
    ],
)
def test_the_last_complete_box_is_the_answer(text, expected):
    assert last_boxed(text) == expected


@pytest.mark.parametrize("number", ["7", "-7", "+7", "1,234.5", "3/4", "0"])
def test_a_box_without_braces_holds_the_number_behind_it_and_nothing_longer(number):
    assert last_boxed(f"\\boxed {number} it is") == number
    assert last_boxed(f"\\fbox{number}.") == number
    for more in "x _ ^2 \\cdot2 (2) [2] {2} ! % /x *2 +1 -1".split():
        assert last_boxed(f"\\boxed{{3}} \\boxed {number}{more}") is None, more
    assert last_boxed(f"\\boxed{{3}} \\boxedx {number}") == "3"


@pytest.mark.parametrize(
    "joint",
    [",", ", ", " and ", " or ", ";", " & ", "\\quad ", "\\qquad ", "\\text{ and }", "\\mbox{or}",
     "\\mathrm{, and }", "$, $", "$ and $", "*, and *", ", \\, ", "\n and \n", ",\\;"],
)  # fmt: skip
def test_boxes_that_are_joined_are_one_answer(joint):
    assert boxed_answer(f"\\boxed{{9}}. So \\boxed{{1}}{joint}\\boxed{{2}}") == "1, 2"
    assert boxed_answer(f"\\boxed{{1}}{joint}\\boxed{{2}}{joint}\\boxed{{3}}") == "1, 2, 3"
    assert boxed_answer(f"$x = \\boxed{{1}}{joint}y=\\boxed{{2}}") == "x=1, y=2"
    assert boxed_answer(f"x_1 = $\\boxed{{1}}{joint}x_2=\\boxed{{2}}") == "x_1=1, x_2=2"
    assert boxed_answer(f"\\boxed{{1}}{joint}\\boxed{{1}}") == "1"


@pytest.mark.parametrize("gap", [" ", " then ", " so ", "band", "orb", "\\and", ", then ", "", "x",
                                 ", xy=", "="])  # fmt: skip
def test_boxes_that_something_else_parts_are_two_answers(gap):
    assert boxed_answer(f"\\boxed{{1}}{gap}\\boxed{{2}}") == "2"


def test_boxes_far_apart_or_beyond_number_are_not_joined():
    for spaces, expected in ((199, "1, 2"), (200, "2")):
        assert boxed_answer(f"\\boxed{{1}},{' ' * spaces}\\boxed{{2}}") == expected
    many = ",".join(f"\\boxed{{{i}}}" for i in range(40))
    assert boxed_answer(many) == ", ".join(map(str, range(8, 40)))
    assert boxes_of_last_sentence(many) == [str(i) for i in range(8, 40)]
    assert boxed_answer("\\boxed{1}, \\boxed{}, \\boxed{2}") == "1, 2"
    assert boxed_answer("\\boxed{1}, \\boxed{2") is None
    assert boxed_answer("\\boxed 42, \\boxed 43") == "42, 43"


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("The least is \\boxed{3} and the greatest \\boxed{4}", ["3", "4"]),
        ("One is \\boxed{3}. The other is \\boxed{4}.", ["4"]),
        ("One is \\boxed{3}! The other is \\boxed{4}", ["4"]),
        ("Is it \\boxed{3}? It is \\boxed{4}", ["4"]),
        ("\\boxed{3}\n\\boxed{4}", ["4"]),
        ("2.5 of \\boxed{3} is 1.5 of \\boxed{4}", ["3", "4"]),
        ("\\boxed{3} makes \\boxed{3}", ["3"]),
        ("x=\\boxed{3} makes y=\\boxed{3}", ["x=3", "y=3"]),
        ("max=\\boxed{3} and \\pi=\\boxed{4}", ["3", "4"]),
        (f"x={' ' * 30}\\boxed{{3}}", ["3"]),
        ("x=\\boxed{ }, \\boxed{5}", ["5"]),
        ("\\boxed{3+\\boxed{2}}", ["3+\\boxed{2}"]),
        ("\\boxed{3} and \\boxed{4", []),
        ("none", []),
    ],
)
def test_the_boxes_of_the_last_sentence_are_those_in_it(text, boxes):
    assert boxes_of_last_sentence(text) == boxes


PIECES = ["\\boxed{", "\\fbox {", "{", "}", "\\", "x", "```", "python\n", "\n", "</think>", " "]
NOISE = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@given(TEXT | NOISE)
def test_reading_an_answer_never_raises(text):
    split_thinking(text)
    box = last_boxed(text)
    assert box is None or box in text
    code = last_code_block(text)
    assert code is None or all(line.strip() in text for line in code.splitlines())
    assert all(word.strip() for word in words(text))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("```\nprint(2)\n```\n", "print(2)\n"),
        ("```python\na\n```\ntext\n```py\nb\n```", "b\n"),
        ("```python\na\n```\n```\nsample output\n```", "a\n"),
        ("```python\na\n```\n```cpp\nint x;\n```", "a\n"),
        ("```cpp\nint x;\n```", None),
        ("  ```Python3\n  a\n    b\n  ```", "a\n  b\n"),
        ("```python\nnever closed", None),
        ("print(1)", None),
    ],
)
def test_the_last_python_block_is_the_program(text, expected):
    assert last_code_block(text) == expected


LOOP = "for x in y:\n    print(x)\n"
FENCED = {
    "four backticks": "````python\n{}````",
    "tildes": "~~~py\n{}~~~",
    "tildes around backticks": "~~~py\n{}~~~\n```\n8\n```",
    "a shorter closing": "````python\n{}```",
    "a longer closing": "```python\n{}`````",
    "two shorter closings": "`````python\n{}```\ntext\n````\ntext",
    "fences of the other kind and a shorter closing": "`````python\n{}```\n~~~~~\ntext",
    "words before": "So: ```python\n{}```",
    "words of a list item before": "* So: ```python\n  for x in y:\n      print(x)\n  ```",
    "marks of quotation": "> ```python\n> for x in y:\n>     print(x)\n> ```",
    "words before and no language": "So: ```\n{}```",
    "words behind": "```python\n{}``` as asked.\n```\n8\n```",
    "a stop behind": "```python\n{}```.",
    "an opening instead of a closing": "```python\nold\n```python\n{}```",
    "an opening by another name instead of a closing": "```cpp\nint x;\n```{{.python}}\n{}```",
    "a label instead of a closing": "```cpp\nint x;\n```text\n{}```",
    "a block in a block of Markdown": "````markdown\n```python\n{}```\n````",
    "spans of code around": "Use ```x```:\n```python\n{}```\nwith ```y```",
    "a label that is no language": "```text\n{}```",
    "an output labelled as text": "```\n{}```\n```text\n8\n```",
    "an end never written": "```python\n{}```\nor\n```python\nold",
}  # fmt: skip


@pytest.mark.parametrize("name", FENCED)
@pytest.mark.parametrize("line_end", ["\n", "\r\n"])
def test_a_program_is_found_between(name, line_end):
    text = FENCED[name].format(LOOP).replace("\n", line_end)
    assert last_code_block(text) == LOOP


@pytest.mark.parametrize(
    "label",
    ["python", "PYTHON", "Python 3", "python3.11", "python-3", "py", "py3", "pypy3", "PyPy3.10",
     "cpython", "ipython", "{.python}", "{.python .numbers}", "{python}", "python:main.py",
     "python,linenos", "python title='a'", "language-python", "[python]", "main.py", "\tpython "],
)  # fmt: skip
def test_python_has_many_names(label):
    assert last_code_block(f"```{label}\n{LOOP}```\n```\n8\n```") == LOOP


@pytest.mark.parametrize("label", ["cpp", "java", "javascript", "pycon", "pythonic", "json", "sh"])
def test_another_language_is_none(label):
    assert last_code_block(f"```{label}\n{LOOP}```") is None


@pytest.mark.parametrize(
    ("before", "indent"),
    [("* a\n", "  "), ("1. a\n\n", "   "), ("a\n", "\t"), ("", "\t"), ("", "    ")],
)
def test_in_a_list_item_the_program_loses_the_items_indentation(before, indent):
    lines = f"```python\n{LOOP}```".split("\n")
    text = before + "\n".join(indent + line for line in lines)
    assert last_code_block(text) == LOOP
    assert last_code_block(text.strip()) == LOOP  # as `split_thinking` leaves it
    assert last_code_block(f"1. ```python\n   {LOOP.replace(chr(10), chr(10) + '   ')}```") == LOOP


def test_a_line_with_less_white_space_than_the_fence_loses_what_it_has():
    assert last_code_block("So:\n  ```python\n    if x:\n y = 2\nz\n  ```") == "  if x:\ny = 2\nz\n"


def test_the_body_of_a_function_keeps_its_own_indentation():
    assert last_code_block("```python\n    return 2\n```") == "    return 2\n"


def test_a_block_in_one_line_or_closed_on_its_last_line_is_one():
    assert last_code_block("```python print(1) ```") == "print(1)\n"
    assert last_code_block(f"```python\n{LOOP.rstrip()}```") == LOOP
    assert last_code_block(f"```python\n{LOOP.rstrip()} ```\nPrints:\n```\n8\n```").rstrip() == (
        LOOP.rstrip()
    )


DOCUMENTED = [
    'def f():\n    """Doubles.\n\n    ```python\n    f(1)\n    ```\n    """\n    return 2\n',
    "s = '''\n```\n'''  # it's a \"quote\"\nprint(s)\n",
    'def f():\n    """```\n    f()\n    ```"""\n    return "```"\n',
    'x = \'a\'\'\' + """\n```\n"""\n',
    'x = \'"\' + """\n```\n"""\n',
    'x = "\\"" + "#"  # not """ open\ns = r"""\n```\n"""\n',
]


@pytest.mark.parametrize("program", DOCUMENTED)
def test_a_fence_inside_a_string_ends_no_block(program):
    assert last_code_block(f"```python\n{program}```\nSo:\n```\n8\n```\n") == program
    assert last_code_block(f"```\n{program}```\n") == program


def test_a_string_that_is_never_closed_keeps_no_block_open():
    assert last_code_block('```python\nx = """\n```\nor\n```python\ny\n```') == "y\n"
    assert last_code_block('```python\nx = """\n```\n') == 'x = """\n'


@pytest.mark.parametrize(
    "text",
    ["`" * 1_000_000, "```\n" * 100_000, "x ```python\n" * 50_000, "1. " * 200_000,
     '```python\n"""\n```\n' * 30_000, "````python\n```\n" * 40_000,
     "```python\n'''\n```\n" + '```python\n"""\n```\n' * 30_000,
     "\n".join("`" * n for n in range(1000, 2, -1))],
    ids=range(8),
)  # fmt: skip
def test_no_text_takes_long_to_search(text):
    began = time.perf_counter()
    last_code_block(text)
    assert time.perf_counter() - began < 10  # a second at most; in quadratic time, minutes


def test_words_are_lower_case_words_numbers_and_signs():
    assert list(words("Find x_1 + 25, Ada!")) == ["find", "x", "_", "1", "+", "25", ",", "ada", "!"]


@given(text=TEXT)
def test_any_text_survives_the_tokenizer(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert all(0 <= i < tokenizer.vocab_size for i in ids)
    assert tokenizer.encode_batch([text, ""]) == [ids, []]


@given(text=TEXT)
def test_a_saved_tokenizer_is_loaded_equal(tokenizer, reloaded, text):
    assert reloaded.encode(text) == tokenizer.encode(text)


@pytest.fixture(scope="module")
def reloaded(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(folder)
    loaded = BPETokenizer.load(folder)
    assert (loaded.eos_id, loaded.eos, loaded.vocab_size) == (
        tokenizer.eos_id,
        tokenizer.eos,
        tokenizer.vocab_size,
    )
    return loaded


@given(text=st.text("0123456789 +=ab", max_size=20))
def test_every_digit_is_one_token(tokenizer, text):
    pieces = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
    for piece in pieces:
        assert not any(c.isdigit() for c in piece) or len(piece) == 1
    assert "".join(pieces) == text


def test_every_special_token_is_one_token_wherever_it_stands(tokenizer):
    for token in SPECIAL_TOKENS:
        ids = tokenizer.encode(f"a{token}b")
        assert len(ids) == 3
        assert tokenizer.decode(ids) == f"a{token}b"
    assert tokenizer.decode([tokenizer.eos_id]) == "<|endoftext|>"


def test_training_is_repeatable_and_keeps_to_its_size(tokenizer):
    again = BPETokenizer.train(CORPUS, vocab_size=300)
    assert tokenizer.vocab_size <= 300
    assert again.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])
    assert len(tokenizer.encode(CORPUS[0])) < len(CORPUS[0].encode())


def test_a_tokenizer_that_cannot_be_loaded_is_named(tokenizer, tmp_path):
    with pytest.raises(DataError, match=r"tokenizer\.json: no such file"):
        BPETokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(DataError, match=r"tokenizer\.json: not a tokenizer file"):
        BPETokenizer.load(tmp_path)
    tokenizer.save(tmp_path)
    with pytest.raises(DataError, match="no end-of-sequence token '</s>'"):
        BPETokenizer.load(tmp_path, eos="</s>")


def test_a_published_end_of_sequence_token_is_taken_from_its_settings(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    for stored in ("<|im_end|>", {"content": "<|im_end|>", "lstrip": False}):
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": stored}))
        assert BPETokenizer.load(tmp_path).eos == "<|im_end|>"


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ("{", r"tokenizer_config\.json: cannot be read"),
        ("[1]", r"tokenizer_config\.json: expected a JSON object, found list"),
        ('{"eos_token": 3}', r"tokenizer_config\.json: eos_token: expected a text, found 3"),
        ('{"eos_token": "<gone>"}', r"tokenizer\.json: .* no end-of-sequence token '<gone>'"),
    ],
)
def test_settings_of_a_tokenizer_that_cannot_be_used_are_named(tokenizer, tmp_path, settings, told):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(settings)
    with pytest.raises(DataError, match=told):
        BPETokenizer.load(tmp_path)


@pytest.mark.parametrize("settings", ["{}", '{"eos_token": null}', '{"eos_token": {}}'])
def test_settings_that_name_no_end_leave_it_at_ours(tokenizer, tmp_path, settings):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(settings)
    assert BPETokenizer.load(tmp_path).eos == "<|endoftext|>"


@given(text=st.text(st.sampled_from("a1 \ud83d\udc00\udfff")))
def test_half_a_surrogate_pair_is_read_as_the_replacement_character(tokenizer, text):
    replaced = "".join("\ufffd" if "\ud800" <= c <= "\udfff" else c for c in text)
    assert tokenizer.encode(text) == tokenizer.encode(replaced)
    assert tokenizer.encode_batch([text]) == [tokenizer.encode(replaced)]


def test_a_corpus_may_hold_half_a_surrogate_pair():
    assert BPETokenizer.train(["a\ud83d"] * 3, vocab_size=280).decode([300]) == ""


@pytest.mark.parametrize("kind", ["truncation", "padding"])
def test_what_a_stored_tokenizer_would_cut_or_add_is_switched_off_and_told(
    tokenizer, tmp_path, kind
):
    tokenizer.save(tmp_path)
    file = tmp_path / "tokenizer.json"
    stored = json.loads(file.read_text())
    stored[kind] = {
        "truncation": {
            "direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0
        },
        "padding": {
            "strategy": {"Fixed": 99}, "direction": "Right", "pad_to_multiple_of": None,
            "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]",
        },
    }[kind]  # fmt: skip
    file.write_text(json.dumps(stored))
    with pytest.warns(UserWarning, match=rf"tokenizer\.json: has {kind} stored in it") as told:
        loaded = BPETokenizer.load(tmp_path)
    assert len(told) == 1
    assert loaded.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])
    assert loaded.encode_batch(["1", CORPUS[0]]) == tokenizer.encode_batch(["1", CORPUS[0]])
    loaded.save(tmp_path / "again")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BPETokenizer.load(tmp_path / "again")


def test_a_byte_order_mark_is_no_part_of_a_model_folders_files(tokenizer, tmp_path):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<think>"}')
    (tmp_path / "generation_config.json").write_text('{"eos_token_id": 1}')
    for file in tmp_path.iterdir():
        file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    loaded = BPETokenizer.load(tmp_path)
    assert (loaded.eos, loaded.end_ids) == ("<think>", (3, 1))
    assert loaded.encode(CORPUS[0]) == tokenizer.encode(CORPUS[0])


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (None, None, (0,)),
        ({"eos_token_id": [0, 2]}, None, (0, 2)),
        ({"eos_token_id": [2, 1]}, {"eos_token_id": [1, 0, 4]}, (0, 1, 2, 4)),
        (None, {"eos_token_id": 2}, (0, 2)),
        ({"eos_token_id": None}, {"eos_token_id": None}, (0,)),
        ({}, {}, (0,)),
        # Published ones name a token that is not the tokenizer's, and a copy of it.
        ({"eos_token_id": 2}, {"eos_token_id": 2, "_from_model_config": True}, (0,)),
        ({"eos_token_id": [1]}, {"eos_token_id": [1], "_from_model_config": True}, (0, 1)),
    ],
)
def test_a_completion_ends_at_every_token_that_the_models_folder_names(
    tokenizer, tmp_path, config, generation, ends
):
    tokenizer.save(tmp_path / "a")
    (tmp_path / "model").mkdir()
    for folder in (tmp_path / "a", tmp_path / "model"):
        for name, stored in (("config", config), ("generation_config", generation)):
            if stored is not None:
                (folder / f"{name}.json").write_text(json.dumps(stored))
    loaded = BPETokenizer.load(tmp_path / "a")
    assert (loaded.eos_id, loaded.end_ids) == (0, ends)
    loaded.save(tmp_path / "b")
    assert BPETokenizer.load(tmp_path / "b").end_ids == ends
    assert (tmp_path / "b" / "generation_config.json").exists() == (len(ends) > 1)
    tokenizer.save(tmp_path / "beside")
    assert BPETokenizer.load(tmp_path / "beside", model=tmp_path / "model").end_ids == ends


@pytest.mark.parametrize("ends", ["2", [1, "2"], [True], 1.5, -1, {"id": 1}])
@pytest.mark.parametrize("name", ["config.json", "generation_config.json"])
def test_an_end_that_is_no_id_is_named(tokenizer, tmp_path, name, ends):
    tokenizer.save(tmp_path)
    (tmp_path / name).write_text(json.dumps({"eos_token_id": ends}))
    with pytest.raises(DataError, match=rf"{name}: eos_token_id: expected an id or a list of ids"):
        BPETokenizer.load(tmp_path)


def test_an_end_token_that_is_no_text_of_characters_is_refused_as_one_that_is_missing(
    tokenizer, tmp_path
):
    tokenizer.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "\\ud83d"}')
    with pytest.raises(DataError, match=r"tokenizer\.json: .* no end-of-sequence token"):
        BPETokenizer.load(tmp_path)
