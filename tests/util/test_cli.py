"""Log messages of the programs, and the exit codes of what goes wrong in them."""

import argparse
import contextlib
import errno
import logging
import signal
import subprocess
import sys

import pytest
from paths import ROOT

from ldm.util.cli import Parser, add_verbose_argument, configure_logging, interrupt_deferred, run_program
from ldm.util.errors import UserError

logger = logging.getLogger("ldm.some.module")


@pytest.mark.parametrize("verbose, shown", [(False, "short\n"), (True, "short\nlong\n")])
def test_each_message_is_printed_once_and_the_long_form_if_verbose(capsys, verbose, shown):
    configure_logging(verbose)
    for _ in range(2):
        logger.info("short")
        logger.debug("long")
    assert capsys.readouterr() == (shown, "")


def test_another_program_in_the_same_process_prints_the_message_again_and_only_once(capsys):
    for _ in range(2):
        configure_logging()
        logger.info("short")
    assert capsys.readouterr().out == "short\nshort\n"


def test_warnings_go_to_stderr(capsys):
    configure_logging()
    logger.warning("not loaded")
    assert capsys.readouterr() == ("", "not loaded\n")


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "NODE_RANK"])
def test_only_the_first_process_prints_messages(capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    configure_logging()
    logger.info("short")
    logger.warning("not loaded")
    logger.error("failed")
    assert capsys.readouterr() == ("", "failed\n")


def test_the_verbose_option_is_off_by_default():
    parser = argparse.ArgumentParser()
    add_verbose_argument(parser)
    assert not parser.parse_args([]).verbose and parser.parse_args(["--verbose"]).verbose


def test_a_program_shows_the_messages_of_its_body(capsys):
    assert run_program(lambda: logger.debug("long"), "program.py", verbose=True) == 0
    assert capsys.readouterr().out == "long\n"


def test_a_users_mistake_is_one_line_on_stderr_and_exit_code_2(capsys):
    def body():
        raise UserError("wrong\n   option")

    assert run_program(body, "program.py") == 2
    assert capsys.readouterr() == ("", "program.py: wrong option\n")


def test_an_interrupted_program_says_how_to_continue_and_exits_with_130(capsys):
    def body():
        raise KeyboardInterrupt

    assert run_program(body, "program.py", if_stopped="the same command continues") == 130
    assert capsys.readouterr().err == "program.py: stopped; the same command continues\n"


def test_other_errors_are_not_hidden():
    def body():
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="bug"):
        run_program(body, "program.py")


@pytest.mark.parametrize(
    "error, code, word",
    [
        (UserError("the graph is empty"), 2, "graph"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 2, "full"),
        (OSError(errno.EDQUOT, "Quota exceeded", "a.png"), 2, "full"),
        (OSError(errno.EROFS, "Read-only file system", "a.png"), 2, "a.png"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "a.png"), 2, "a.png"),
        (KeyboardInterrupt(), 130, "stopped"),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141, "output"),
    ],
)
def test_an_exception_becomes_one_line_and_an_exit_code(error, code, word, capsys, monkeypatch):
    def fail():
        raise error

    monkeypatch.setattr("ldm.util.cli._discard_output", lambda: None)
    assert run_program(fail, "program.py") == code
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("program.py: ") and word in line


def test_other_exceptions_are_bugs_and_show_their_traceback():
    with pytest.raises(ZeroDivisionError):
        run_program(lambda: 1 // 0, "program.py")


def test_a_closed_pipe_ends_a_program_with_one_sentence():
    code = "from ldm.util.cli import run_program; import sys; sys.exit(run_program(lambda: [print('x' * 1000) for _ in range(1000)] and 0, 'p'))"
    program = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    program.stdout.close()
    assert len(program.stderr.read().decode().splitlines()) == 1
    assert program.wait() == 141


@pytest.mark.parametrize(
    "words, message",
    [
        (["--step", "3", "--xyz", "2"], "program.py: unknown flag '--xyz' (--help lists all flags)"),
        (
            ["--guidence=2"],
            "program.py: unknown flag '--guidence'; did you mean '--guidance'? (--help lists all flags)",
        ),
        (["--steps"], "program.py: argument --steps: expected one argument (--help lists all flags)"),
        (["--guidance", "3", "a.png"], "program.py: unknown word 'a.png' (--help lists all flags)"),
    ],
)
def test_a_mistake_in_flags_is_one_line_that_suggests_flags(capsys, words, message):
    parser = Parser("program.py", "Draws.")
    parser.add_argument("--steps", type=int)
    parser.add_argument("--guidance", type=float, required=True)
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(words)
    assert capsys.readouterr().err == f"{message}\n"


def test_an_unknown_flag_of_a_command_is_named_with_the_command(capsys):
    parser = Parser("program.py", "Draws.")
    parser.add_subparsers().add_parser("edits").add_argument("--methods")
    with pytest.raises(SystemExit, match="2"):
        parser.parse_args(["edits", "--metods", "plain"])
    assert capsys.readouterr().err.startswith("program.py edits: unknown flag '--metods'; did you mean '--methods'?")


def test_every_program_leaves_ctrl_c_to_end_it_silently_while_it_imports():
    programs = [*(ROOT / "scripts").glob("*.py"), ROOT / "trainer.py"]
    for program in programs:
        handled, first_import = (program.read_text().index(t) for t in ("signal.SIG_DFL", "from ldm"))
        assert handled < first_import, program


def test_a_deferred_interrupt_is_raised_at_the_end_of_the_context_and_is_ctrl_c_again_after_it():
    done = []
    swallowed = contextlib.suppress(KeyboardInterrupt)  # as by a library that forgets it
    with pytest.raises(KeyboardInterrupt), interrupt_deferred(), swallowed:
        signal.raise_signal(signal.SIGINT)
        done.append(True)
    assert done
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)
    with interrupt_deferred():
        pass
