"""Callbacks of a resumed run get back what they counted, and keep what they were built with."""

from __future__ import annotations

from transformers import EarlyStoppingCallback, TrainerCallback

from trl_nlpo.trainer.callback_states import restore_callbacks, with_state


def stopping(patience, counted):
    callback = EarlyStoppingCallback(early_stopping_patience=patience)
    callback.early_stopping_patience_counter = counted
    return callback


def test_counters_come_back_and_settings_stay():
    callback = stopping(5, 0)
    restore_callbacks([TrainerCallback(), callback], {"EarlyStoppingCallback": stopping(3, 2).state()})
    assert (callback.early_stopping_patience, callback.early_stopping_patience_counter) == (5, 2)


def test_of_a_list_that_grew_with_every_save_the_latest_count():
    callbacks = [stopping(5, 0), stopping(5, 0)]
    saved = [stopping(5, counted).state() for counted in (1, 1, 3, 4)]
    restore_callbacks(callbacks, {"EarlyStoppingCallback": saved})
    assert [callback.early_stopping_patience_counter for callback in callbacks] == [3, 4]


def test_a_callback_that_the_checkpoint_does_not_know_starts_anew():
    callback = stopping(5, 0)
    restore_callbacks([callback], {})
    assert callback.early_stopping_patience_counter == 0


def test_callbacks_without_state_have_none():
    callback = stopping(5, 0)
    assert with_state([TrainerCallback(), callback]) == [callback]
