"""What a person sees of long work: a bar on a terminal, a line now and then in a log."""

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from statewise import progress
from statewise.progress import PLAIN_EVERY_S, task


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still unless it is set."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


@pytest.fixture
def log():
    return io.StringIO()


def test_a_log_gets_a_line_now_and_then_with_share_rate_and_time_left(clock, log):
    with task("train", 1000, "tokens", log) as shown:
        clock[0] += PLAIN_EVERY_S
        shown.update(300, "loss 1.5")
        clock[0] += PLAIN_EVERY_S / 2
        shown.update(450, "loss 1.4")
        clock[0] += PLAIN_EVERY_S / 2
        shown.update(600, "loss 1.3")
    assert log.getvalue() == (
        "  train:  30 %  20 tokens/s  loss 1.5  35 s left\n"
        "  train:  60 %  20 tokens/s  loss 1.3  20 s left\n"
    )


def test_what_was_done_before_a_resume_counts_for_the_share_and_not_for_the_rate(clock, log):
    with task("judge", 100, "answers", log) as shown:
        shown.start_at(80)
        clock[0] += 20
        for _ in range(4):
            shown.advance()
    assert shown.done == 84
    assert log.getvalue() == "  judge:  81 %  0.1 answers/s    380 s left\n"


def test_short_work_leaves_a_log_clean(clock, log):
    with task("check", 10, "", log) as shown:
        for _ in range(10):
            shown.advance()
    assert log.getvalue() == ""


@given(st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e9), st.floats(0, 1e5))
def test_no_figures_break_it(total, start, done, elapsed):
    for stream in (io.StringIO(), Terminal()):
        with pytest.MonkeyPatch.context() as m, task("t", total, "x", stream) as shown:
            now = progress.time.monotonic() + elapsed
            m.setattr(progress.time, "monotonic", lambda now=now: now)
            shown.start_at(start)
            shown.update(done)
            if elapsed > 1:  # the block's own beginning lies a moment before `now` was read
                assert shown.rate == pytest.approx((done - start) / elapsed, rel=1e-2)


def test_a_task_without_size_is_no_division_by_zero(clock, log):
    with task("nothing", 0, "tokens", log) as shown:
        clock[0] += PLAIN_EVERY_S
        shown.update(0)
    assert "left" in log.getvalue()


def test_a_terminal_gets_a_bar_that_is_gone_afterwards(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    with task("train", 10, "tokens", terminal) as shown:
        shown.update(5, "loss 1.5")
        shown._bar.refresh()
    text = terminal.getvalue()
    assert "train" in text
    assert "loss 1.5" in text
    assert text.endswith("\x1b[2K")  # the bar's line is erased


def test_a_bar_is_taken_away_when_the_work_fails():
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), task("train", 10, "tokens", terminal) as shown:
        raise ZeroDivisionError
    assert not shown._bar.live.is_started


def test_progress_goes_to_standard_error(clock, capsys):
    with task("train", 10, "tokens") as shown:
        clock[0] += PLAIN_EVERY_S
        shown.update(5)
    out, err = capsys.readouterr()
    assert out == ""
    assert "train" in err
