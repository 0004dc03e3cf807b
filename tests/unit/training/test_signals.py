"""Signals: which request a stop, which end at once, and which handlers receive them afterwards."""

import os
import signal
import threading

import pytest

from mtrl_fairgrad.training.signals import StopController


def send(*numbers):
    for number in numbers:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2])
def test_each_of_the_signals_asks_once(number):
    stop, before = StopController(), signal.getsignal(number)
    with stop.handle_signals():
        assert not stop.requested and stop.exit_code == 0
        send(number)
    assert stop.requested and stop.signal == number and stop.received == [number]
    assert stop.exit_code == 128 + number
    assert signal.getsignal(number) is before


def test_a_second_request_leaves_at_once_but_a_warning_and_then_sigterm_do_not():
    stop = StopController()
    with stop.handle_signals():
        send(signal.SIGUSR1, signal.SIGTERM, signal.SIGUSR2)
    assert stop.signal == signal.SIGUSR1 and len(stop.received) == 3
    with pytest.raises(KeyboardInterrupt), StopController().handle_signals():
        send(signal.SIGINT, signal.SIGTERM)


def test_previous_handlers_receive_the_signals_after_the_run():
    heard = []
    previous = {
        n: signal.signal(n, lambda number, _: heard.append(number))
        for n in (signal.SIGUSR2, signal.SIGTERM)
    }
    try:
        stop = StopController()
        with stop.handle_signals():
            send(signal.SIGTERM, signal.SIGUSR2, signal.SIGUSR1)
            assert heard == []
        stop.reraise()
        assert heard == [signal.SIGTERM, signal.SIGUSR2], "nobody waited for SIGUSR1"
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def test_ctrl_c_is_not_repeated_to_python_itself():
    stop = StopController()
    with stop.handle_signals():
        send(signal.SIGINT)
    stop.reraise()


def test_in_a_thread_nothing_changes():
    handlers = []

    def body():
        stop = StopController()
        with stop.handle_signals():
            handlers.append(stop.previous_handlers)

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()
    assert handlers == [{}]


def test_only_the_first_request_counts():
    stop = StopController()
    assert not stop.requested and stop.exit_code == 0
    stop.request(signal.SIGUSR1)
    stop.request(signal.SIGTERM)
    assert stop.signal == signal.SIGUSR1 and stop.exit_code == 128 + signal.SIGUSR1
