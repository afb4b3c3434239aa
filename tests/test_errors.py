from __future__ import annotations

from fingpt_lora.errors import DivergenceError, FingptLoraError, RecipeError, did_you_mean


def test_the_nearest_word_is_named() -> None:
    assert did_you_mean("learnin_rate", ["learning_rate", "lr_scheduler_type"]) == " Did you mean 'learning_rate'?"


def test_few_words_are_listed_and_many_are_not() -> None:
    assert did_you_mean("zzz", ["one", "two"]) == " Valid here: one, two."
    assert did_you_mean("zzz", [f"word{i}" for i in range(40)]) == ""


def test_a_users_mistake_leaves_with_2_and_divergence_with_4() -> None:
    assert RecipeError("x").exit_code == FingptLoraError("x").exit_code == 2
    assert DivergenceError("x").exit_code == 4
