"""Signals: which ask for a stop, which end at once, and who has them afterwards."""

import os
import signal
import threading

import pytest

from mtrl_fairgrad.training.signals import stopping


class Run:
    """Notes what it is asked."""

    def __init__(self):
        self.asked = []

    def request_stop(self, signal):
        self.asked.append(signal)


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_each_of_the_signals_asks_once(number):
    run, before = Run(), signal.getsignal(number)
    with stopping(run) as stop:
        send(number)
    assert run.asked == [number] and stop.received == [number]
    assert signal.getsignal(number) is before


def test_a_second_request_leaves_at_once_but_a_warning_and_then_sigterm_do_not():
    run = Run()
    with stopping(run):
        send(signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2)
    assert run.asked == [signal.SIGUSR1]
    with pytest.raises(KeyboardInterrupt), stopping(Run()):
        send(signal.SIGINT, signal.SIGTERM)


def test_whoever_waited_for_a_signal_has_it_when_the_run_is_closed():
    heard = []
    previous = {
        n: signal.signal(n, lambda number, _: heard.append(number))
        for n in (signal.SIGUSR2, signal.SIGTERM)
    }
    try:
        with stopping(Run()) as stop:
            send(signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1)
            assert heard == []
        stop.hand_on()
        assert heard == [signal.SIGTERM, signal.SIGUSR2], "nobody waited for SIGUSR1"
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def test_ctrl_c_is_not_repeated_to_python_itself():
    with stopping(Run()) as stop:
        send(signal.SIGINT)
    stop.hand_on()


def test_in_a_thread_nothing_changes():
    found = []

    def body():
        with stopping(Run()) as stop:
            found.append(stop.before)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert found == [{}]
