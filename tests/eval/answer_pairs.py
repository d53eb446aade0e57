"""Pairs of answers that are unequal, or equal, by construction: made from references by rule.

`unequal` changes what a reference says: a digit, a sign, a letter's case, an exponent, a unit, an
order that counts, a bracket, a number of parts. `equal` says the same in another way. Each rule
yields None where it does not apply; the random generator is the caller's.
"""

import re
from random import Random

UNITS = ["cm", "kg", "hours", "minutes", "dollars", "apples", "miles", "grams", "litres"]
WRAPPED = r"\\(?:text|mbox|mathrm|textrm|textnormal|textbf)\s*\{([^{}]*)\}"
NUMBER = re.compile(r"(?<![\d.,])\d+(?:\.\d+)?(?![\d.]|,\d)")


def _texts(reference):
    return [
        m.span() for m in re.finditer(WRAPPED + r"|\\(?:begin|end)\{\w+\}|\\[a-zA-Z]+", reference)
    ]


def _places(reference, wanted):
    """Where a character is mathematics, and not in words or the name of a command."""
    hidden = _texts(reference)
    return [
        i for i, c in enumerate(reference)
        if wanted(c) and not any(a <= i < b for a, b in hidden)
    ]  # fmt: skip


# --- unequal


def a_digit(reference, rng):
    places = _places(reference, str.isdigit)
    if not places or re.search(r"[.]\d*0+$", reference):
        return None
    i = rng.choice(places)
    other = str((int(reference[i]) + rng.randint(1, 9)) % 10)
    return reference[:i] + other + reference[i + 1 :]


def a_sign(reference, rng):
    places = _places(reference, lambda c: c in "+-")
    if not places:
        plain = NUMBER.fullmatch(reference) or re.fullmatch(r"\\frac\{\d+\}\{\d+\}", reference)
        return f"-{reference}" if plain and not re.fullmatch("0+", reference) else None
    i = rng.choice(places)
    return reference[:i] + ("-" if reference[i] == "+" else "+") + reference[i + 1 :]


def a_letters_case(reference, rng):
    places = _places(reference, lambda c: c.isascii() and c.isalpha())
    if not places:
        return None
    i = rng.choice(places)
    return reference[:i] + reference[i].swapcase() + reference[i + 1 :]


def an_exponent(reference, rng):
    powers = list(re.finditer(r"\^(?:\{(\d+)\}|(\d))(?!\d)", reference))
    if not powers:
        return None
    m = rng.choice(powers)
    n = int(m[1] or m[2])
    return reference[: m.start()] + f"^{{{n + rng.choice([1, 2, 3])}}}" + reference[m.end() :]


def a_unit(reference, rng):
    m = re.search(WRAPPED + r"(?:\^\{?\d\}?)?$", reference)
    if not m or not re.search(r"\d", reference[: m.start()]):
        return None
    word = m[1].strip().strip(".").lower()
    others = [u for u in UNITS if u.rstrip("s") not in word and word.rstrip("s") not in u]
    others = [u for u in others if (word, u) != ("usd", "dollars")]
    return f"{reference[: m.start()]}\\text{{ {rng.choice(others)}}}"


def another_order(reference, rng):
    m = re.fullmatch(r"(\\left)?\((.*)\)", reference.replace("\\right)", ")"))
    parts = top_level(m[2]) if m else []
    if len(parts) < 2 or len(set(parts)) < 2:
        return None
    i = rng.randrange(len(parts) - 1)
    if parts[i].strip() == parts[i + 1].strip():
        return None
    parts[i], parts[i + 1] = parts[i + 1], parts[i]
    return f"({','.join(parts)})"


def a_bracket(reference, rng):
    plain = reference.replace("\\left", "").replace("\\right", "")
    m = re.fullmatch(r"([(\[])(.*)([)\]])", plain)
    if not m or len(top_level(m[2])) != 2 or "\\cup" in plain or "infty" in plain:
        return None
    turned = {"(": "[", "[": "(", ")": "]", "]": ")"}
    return turned[m[1]] + m[2] + m[3] if rng.random() < 0.5 else m[1] + m[2] + turned[m[3]]


def a_part_more(reference, rng):
    if re.search(r"\\text|\\mbox|matrix|=|\\le|<|>|\\cup|:", reference):
        return None
    return f"{reference}, {rng.randint(1000, 9999)}"


def a_tiny_bit(reference, rng):
    if not re.fullmatch(r"-?(?:\d+|\\frac\{\d+\}\{\d+\})", reference):
        return None
    return f"{reference} + 10^{{-{rng.choice([9, 20, 40, 400])}}}"


def a_factor(reference, rng):
    if not re.fullmatch(r"-?(?:\d+|\\frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}|\d*\\pi)", reference):
        return None
    if reference.strip("-0") == "":
        return None
    return f"{rng.choice(['2', '10', '(-1)', '10^{-3}', '1.001'])} \\cdot {reference}"


def digits_apart(reference, rng):
    numbers = [m for m in NUMBER.finditer(reference) if "." not in m[0] and len(m[0]) > 1]
    if not numbers or not re.fullmatch(r"-?\d+", reference):
        return None
    cut = rng.randrange(1, len(numbers[0][0]))
    head, tail = numbers[0][0][:cut], numbers[0][0][cut:]
    if len(tail) == 3 and not tail.startswith("-"):
        return None  # a thousands separator
    return f"{'-' if reference.startswith('-') else ''}{head}{rng.choice([' ', '~', ' '])}{tail}"


UNEQUAL = (
    a_digit, a_sign, a_letters_case, an_exponent, a_unit, another_order, a_bracket, a_part_more,
    a_tiny_bit, a_factor, digits_apart,
)  # fmt: skip


# --- equal


def spaced(reference, rng):
    space = rng.choice([" ", "\\,", "\\;", "~", "\\ "])
    places = [
        i for i, c in enumerate(reference)
        if c in "+-=,()" and i and not reference[i - 1].isdigit() and "text" not in reference
        and reference[i - 1] not in "\\tn"
    ]  # fmt: skip
    if not places:
        return f"{space}{reference}{space}"
    i = rng.choice(places)
    return reference[:i] + space + reference[i:]


def framed(reference, rng):
    if re.search(r"\\text|\\mbox|\\begin", reference):
        return f"${reference}$"
    return rng.choice(
        [f"${reference}$", f"\\({reference}\\)", f"**{reference}**", f"{reference}.",
         f"\\displaystyle {reference}", f"\\mathbf{{{reference}}}", f"{{{reference}}}",
         f"\\text{{Answer: }}{reference}", f"\\begin{{aligned}}{reference}\\end{{aligned}}",
         f"\\boxed{{{reference}}}", f"\\color{{blue}}{{{reference}}}"]
    )  # fmt: skip


def fractions_written_otherwise(reference, rng):
    if "frac" not in reference or re.search(r"\\(?:sin|cos|tan|sec|csc|cot|log|ln)", reference):
        return None
    if rng.random() < 0.5:
        return re.sub(r"\\[dt]?frac", rng.choice([r"\\dfrac", r"\\tfrac", r"\\cfrac"]), reference)
    slashed = re.sub(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", r"{\1/\2}", reference)
    return slashed if slashed != reference else None


def fractions_not_reduced(reference, rng):
    m = re.search(r"\\[dt]?frac\{(\d+)\}\{(\d+)\}", reference)
    if not m or reference[: m.start()][-1:].isdigit():
        return None
    k = rng.randint(2, 9)
    made = f"\\frac{{{int(m[1]) * k}}}{{{int(m[2]) * k}}}"
    return reference[: m.start()] + made + reference[m.end() :]


def thousands_set_apart(reference, rng):
    m = re.search(r"(?<![\d.^{_,])\d{4,9}(?![\d.,])", reference)
    if not m or "," in reference or re.search(r"[\[(]", reference):
        return None
    grouped = f"{int(m[0]):,}"
    if m[0].startswith("0"):
        return None
    mark = rng.choice([",", "{,}", "\\,", ",\\!", "\\ ", "\\text{,}"])
    return reference[: m.start()] + grouped.replace(",", mark) + reference[m.end() :]


def a_label(reference, rng):
    if re.search(r"[=<>xN,]|\\text|\\mbox|\\le|\\ge|\\in", reference):
        return None
    return rng.choice(
        [f"x = {reference}", f"\\text{{The answer is }}{reference}",
         f"\\text{{Total: }}{reference}", f"N={reference}", f"\\text{{ans}} = {reference}"]
    )  # fmt: skip


def a_unit_more(reference, rng):
    if not re.fullmatch(r"-?\d+(?:\.\d+)?|\\frac\{\d+\}\{\d+\}", reference):
        return None
    unit = rng.choice([*UNITS, "km/h", "square units", "degrees"])
    return rng.choice(
        [f"{reference} \\text{{ {unit}}}", f"{reference}\\,\\text{{{unit}}}",
         f"{reference}\\ \\mathrm{{{unit}}}", f"{reference} \\mbox{{ {unit}}}"]
    )  # fmt: skip


def a_unit_less(reference, rng):
    m = re.fullmatch(r"(-?[\d.]+|\\frac\{\d+\}\{\d+\})\s*" + WRAPPED, reference)
    return m[1] if m and not re.search(r"[ap]\.m", reference) else None


def zeros(reference, rng):
    if re.fullmatch(r"-?\d+", reference):
        return rng.choice([f"{reference}.0", f"{reference}.00", f"+{reference}".replace("+-", "-")])
    if re.fullmatch(r"-?\d+\.\d+", reference):
        return reference + "0" * rng.randint(1, 3)
    return None


def as_a_power_of_ten(reference, rng):
    m = re.fullmatch(r"(-?\d+?)(0+)", reference)
    if not m:
        return None
    times = rng.choice(["\\times", "\\cdot", "\\times "])
    return f"{m[1]}{times} 10^{{{len(m[2])}}}".replace("\\cdot 1", "\\cdot 1")


def another_order_that_does_not_count(reference, rng):
    m = re.fullmatch(r"(\\left)?\\\{(.*)\\\}", reference.replace("\\right", ""))
    inner = m[2] if m else reference
    if re.search(r"[=<>:|]|\\[!,;]|\\text|\\mid|\\begin|\\in|\\cup|\\le|\\ge|dots", inner):
        return None
    parts = top_level(inner)
    if len(parts) < 2 or re.fullmatch(r"-?\d{1,3}(,\d{3})+", reference):
        return None
    rng.shuffle(parts)
    made = ", ".join(p.strip() for p in parts)
    return f"\\{{{made}\\}}" if m else made


def sums_turned_round(reference, rng):
    m = re.fullmatch(r"([^+\-=<>,(){}\\]+)\+([^+\-=<>,(){}\\]+)", reference)
    if m and "text" not in reference:
        return f"{m[2]}+{m[1]}"
    return None


def a_value_doubled_and_halved(reference, rng):
    plain = r"-?(?:\d+|\\frac\{\d+\}\{\d+\}|\d*\\sqrt\{\d+\}|\d*\\pi|[a-z]\^?\d?[+-]\d+)"
    if not re.fullmatch(plain, reference):
        return None
    return rng.choice(
        [f"\\frac{{2\\left({reference}\\right)}}{{2}}", f"\\left({reference}\\right)",
         f"({reference}) + 1 - 1", f"({reference}) \\cdot 1"]
    )  # fmt: skip


def roots_written_otherwise(reference, rng):
    m = re.search(r"\\sqrt\{(\d+)\}", reference)
    if not m or reference[m.end() :].startswith("^"):
        return None
    made = rng.choice(
        [f"\\sqrt{{{int(m[1]) * 4}}}/2", f"{{{m[1]}}}^{{1/2}}", f"\\sqrt[2]{{{m[1]}}}"]
    )  # fmt: skip
    after = reference[m.end() : m.end() + 1]
    if made.endswith("/2"):
        made = f"\\frac{{{made[:-2]}}}{{2}}"
    return None if after.isalnum() else reference[: m.start()] + made + reference[m.end() :]


EQUAL = (
    spaced, framed, fractions_written_otherwise, fractions_not_reduced, thousands_set_apart,
    a_label, a_unit_more, a_unit_less, zeros, as_a_power_of_ten, another_order_that_does_not_count,
    sums_turned_round, a_value_doubled_and_halved, roots_written_otherwise,
)  # fmt: skip


def top_level(text):
    cuts, depth = [-1], 0
    for i, c in enumerate(text):
        depth += (c in "([{") - (c in ")]}")
        if c == "," and depth == 0:
            cuts.append(i)
    return [text[a + 1 : b] for a, b in zip(cuts, [*cuts[1:], len(text)], strict=True)]


def pairs(references, rules, count, seed):
    """So many (rule, reference, made answer), by every rule as often as it applies."""
    rng = Random(seed)
    made = []
    while len(made) < count:
        rule = rng.choice(rules)
        for _ in range(200):
            reference = rng.choice(references)
            answer = rule(reference, rng)
            if answer is not None and answer != reference:
                made.append((rule.__name__, reference, answer))
                break
    return made
