"""The system call filter, read as the kernel reads it: what it answers to each call.

Calls stand here by number a second time, as the kernel's headers have them, so that a line that is
lost or mistyped in `jail.py` is a difference between two lists.
"""

import struct

import pytest

from statewise.sandbox import jail

ALLOWED, KILLED = 0x7FFF0000, 0x80000000
PERMISSION, ABSENT = 0x00050001, 0x00050026  # EPERM, ENOSYS
ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
REFUSED = {
    "x86_64": """
        29 64 68 101 103 133 155 161 163 165 166 167 168 169 175 176 179 206 240 246 248 249 250
        253 259 272 278 294 298 303 304 308 310 311 313 319 320 321 323 425 426 427 428 429 430
        431 432 433 438 442 447 467""",
    "aarch64": """
        0 26 33 39 40 41 51 60 75 89 97 104 105 106 116 117 142 180 186 190 194 217 218 219 224
        225 241 264 265 268 270 271 273 279 280 282 294 425 426 427 428 429 430 431 432 433 438
        442 447 467""",
}
REFUSED_ALONE = {
    "x86_64": """
        30 31 41 42 44 46 49 53 57 58 62 65 66 69 70 71 73 90 91 92 93 94 129 132 141 142 144 188
        189 190 191 192 193 194 195 196 197 198 199 200 203 220 234 235 241 251 254 256 260 261
        268 279 280 285 297 300 307 314 424 434 437 440 448 452 457 458 463 464 465 466 468 469""",
    "aarch64": """
        5 6 7 8 9 10 11 12 13 14 15 16 27 30 32 47 52 53 54 55 88 118 119 122 129 130 131 138 140
        181 187 188 189 191 192 193 195 196 198 199 200 203 206 211 238 239 240 262 269 274 424
        434 437 440 448 452 457 458 463 464 465 466 468 469""",
}
# Calls whose arguments decide.
CLONE = {"x86_64": 56, "aarch64": 220}
FCNTL = {"x86_64": 72, "aarch64": 25}
IOCTL = {"x86_64": 16, "aarch64": 29}
PRCTL = {"x86_64": 157, "aarch64": 167}
PRLIMIT = {"x86_64": 302, "aarch64": 261}
SOCKETS = {"x86_64": (41, 53), "aarch64": (198, 199)}
OPEN = {"x86_64": ((2, 1), (257, 2)), "aarch64": ((56, 2),)}  # and the place of its flags
CLONE3, THREAD, LEAST_X32 = 435, 0x10000, 0x40000000


def by_numbers(text: str) -> set[int]:
    return set(map(int, text.split()))


@pytest.fixture(params=[(m, a) for m in ARCHITECTURES for a in (False, True)], ids=str)
def asked(request, monkeypatch):
    """The machine, whether the program stands alone, and what the filter answers to a call."""
    machine, alone = request.param
    monkeypatch.setattr(jail.os, "uname", lambda: type("uname", (), {"machine": machine}))
    code = jail.call_filter(alone=alone)
    lines = [struct.unpack_from("HBBI", code, i) for i in range(0, len(code), 8)]

    def answer(number: int, *arguments: int, architecture: int = ARCHITECTURES[machine]) -> int:
        """What the kernel makes of it: load a word, compare it and jump, or return."""
        padded = [*arguments, *[0] * (6 - len(arguments))]
        data = struct.pack("=IIQ6Q", number, architecture, 0, *padded)
        at, word = 0, 0
        while True:
            operation, yes, no, value = lines[at]
            if operation == 0x06:
                return value
            if operation == 0x20:
                (word,) = struct.unpack_from("=I", data, value)
                at += 1
                continue
            holds = {0x15: word == value, 0x35: word >= value, 0x45: bool(word & value)}[operation]
            at += 1 + (yes if holds else no)

    return machine, alone, answer


def test_the_calls_that_are_refused_whatever_their_arguments_are_these_alone(asked):
    machine, alone, answer = asked
    refused = by_numbers(REFUSED[machine]) | (
        by_numbers(REFUSED_ALONE[machine]) if alone else set()
    )
    deciding = {CLONE3, *SOCKETS[machine]}
    # Arguments that everybody may give: a thread's flags, a first descriptor, an own number.
    harmless = {CLONE[machine]: (THREAD,), IOCTL[machine]: (0, 0x5401)}
    for number in set(range(600)) - deciding:
        expected = PERMISSION if number in refused else ALLOWED
        assert answer(number, *harmless.get(number, ())) == expected, number


def test_calls_of_another_machine_kill_and_unknown_forms_of_a_call_are_absent(asked):
    machine, _, answer = asked
    for architecture in (0, 0x40000003, *ARCHITECTURES.values()):  # 0x40000003: 32 bits of x86
        if architecture != ARCHITECTURES[machine]:
            assert answer(39, architecture=architecture) == KILLED
    assert answer(CLONE3) == ABSENT
    if machine == "x86_64":
        assert {answer(LEAST_X32 + n) for n in (0, 1, 101, 321, 520)} == {ABSENT}
        assert answer(LEAST_X32 - 1) == ALLOWED


def test_no_flag_of_clone_makes_a_namespace_whatever_else_is_asked(asked):
    machine, alone, answer = asked
    for bit in range(8, 32):
        namespace = 1 << bit in {
            *(0x00020000, 0x02000000, 0x04000000, 0x08000000),
            *(0x10000000, 0x20000000, 0x40000000),
        }
        flags = 1 << bit | THREAD
        expected = PERMISSION if namespace else ALLOWED
        assert answer(CLONE[machine], flags) == expected, hex(flags)
    for process in (0x11, 0x4111, 0x01200011):  # as fork, vfork and the C library make one
        assert answer(CLONE[machine], process) == (PERMISSION if alone else ALLOWED)


def test_sockets_are_unix_ones_or_none(asked):
    machine, alone, answer = asked
    for number in SOCKETS[machine]:
        for family in range(64):
            expected = ALLOWED if family == 1 and not alone else PERMISSION
            assert answer(number, family) == expected, family


def test_what_may_be_done_to_an_open_file_or_device_is_told_one_by_one(asked):
    machine, alone, answer = asked
    # Duplicates, flags, locks of this process, locks of an open file, pipes' sizes, seals.
    commands = {*range(8), 36, 37, 38, 1030, 1031, 1032, 1034}
    for command in range(2048):
        expected = ALLOWED if command in commands else PERMISSION
        assert answer(FCNTL[machine], 0, command) == expected, command
    alone_allowed = {0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451}
    for request in (*range(0x5400, 0x5480), 0x40087602, 0x40086602, 0xC0045877):
        refused = request not in alone_allowed if alone else request in (0x5412, 0x541C)
        expected = PERMISSION if refused else ALLOWED
        assert answer(IOCTL[machine], 0, request) == expected, hex(request)


def test_alone_no_file_without_a_name_no_limit_of_others_and_the_death_wish_stays(asked):
    machine, alone, answer = asked
    refused = PERMISSION if alone else ALLOWED
    for number, place in OPEN[machine]:
        for flags in (0, 0x241, 0x10000, 0x80000):
            assert answer(number, *[0] * place, flags) == ALLOWED
        for flags in (0x400000, 0x410000, 0x410002):
            assert answer(number, *[0] * place, flags) == refused
    assert answer(PRLIMIT[machine], 0, 1) == ALLOWED
    assert {answer(PRLIMIT[machine], pid, 1) for pid in (1, 2, 4242)} == {refused}
    assert answer(PRCTL[machine], 1) == refused
    assert {answer(PRCTL[machine], option) for option in (2, 15, 16, 22, 38)} == {ALLOWED}
