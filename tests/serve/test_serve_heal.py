"""From a failed start's log to the flags of the next try."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmops.diagnosis import diagnose_text
from llmops.serve.heal import correct, flags_of, without_flag
from llmops.serve.spec import ServeSpec

SPEC = ServeSpec(model=Path("/m"), engine="vllm")
ARGV = ("python", "-m", "vllm", "serve", "/m", "--max-model-len", "4096", "--enforce-eager", "--port", "8000")
TOO_LONG = (
    "(APIServer pid=7) Value error, User-specified max_model_len (4096) is greater than the derived max_model_len "
    "(max_position_embeddings=2048 or model_max_length=None in model's config.json). This may lead to incorrect model "
    "outputs or CUDA errors. [type=value_error, input_value=ArgsKwargs((), {...}), input_type=ArgsKwargs]"
)
TOO_LITTLE_CACHE = (
    "(EngineCore pid=9) ERROR 11-22 [core.py:900] ValueError: To serve at least one request with the models's max seq "
    "len (1048576), (12.04 GiB KV cache is needed, which is larger than the available KV cache memory (1.0 GiB). Based "
    "on the available memory, the estimated maximum model length is 335872. Try increasing `gpu_memory_utilization` or "
    "decreasing `max_model_len` when initializing the engine."
)


@pytest.mark.parametrize(("log", "length"), [(TOO_LONG, 2048), (TOO_LITTLE_CACHE, 335872)])
def test_a_context_that_is_too_long_becomes_the_longest_that_works(log, length):
    correction = correct(SPEC, diagnose_text("log", log), ARGV)
    assert correction is not None
    assert correction.spec.max_model_len == length
    assert correction.change == f"--max-model-len {length} (was 4096)"


def test_a_flag_that_the_user_passed_through_is_corrected_too():
    spec = SPEC.model_copy(update={"extra": ("--max-model-len", "4096", "--seed", "1")})
    correction = correct(spec, diagnose_text("log", TOO_LONG), (*ARGV, *spec.extra))
    assert correction.spec.extra == ("--seed", "1")
    assert correction.spec.max_model_len == 2048


def test_what_no_flag_can_help_is_not_tried_again():
    assert correct(SPEC, diagnose_text("log", "INFO all is well\nINFO: Application startup complete."), ARGV) is None
    missing = "OSError: [Errno 28] No space left on device: '/root/.cache/x'"
    assert correct(SPEC, diagnose_text("log", missing), ARGV) is None


def test_the_same_correction_is_not_tried_twice():
    first = correct(SPEC, diagnose_text("log", TOO_LONG), ARGV)
    corrected = tuple("2048" if word == "4096" else word for word in ARGV)
    assert correct(first.spec, diagnose_text("log", TOO_LONG), corrected) is None


NOT_DIVISIBLE = "ValueError: Total number of attention heads (4) must be divisible by tensor parallel size (3)."


@pytest.mark.parametrize(
    ("gpus", "size", "shown"),
    [(4, 2, "--tensor-parallel-size 2 (was 3)"), (0, None, "a split that fits this machine (was 3)")],
)
def test_a_split_is_advised_only_where_there_are_gpus_for_it(gpus, size, shown):
    spec = SPEC.model_copy(update={"extra": ("--tensor-parallel-size", "3")})
    correction = correct(spec, diagnose_text("log", NOT_DIVISIBLE), (*ARGV, *spec.extra), gpus=gpus)
    assert (correction.spec.tensor_parallel, correction.spec.extra) == (size, ())
    assert correction.change == shown


def test_flags_are_read_as_engines_read_them():
    assert flags_of(("p", "--a", "1", "--b", "--c=3", "--a", "2")) == {"--a": "2", "--b": "", "--c": "3"}


WORD = st.sampled_from(["--a", "--b", "--a=1", "1", "2"])


@given(st.lists(WORD, max_size=8))
def test_a_removed_flag_is_gone_and_the_others_stay(argv):
    left = without_flag(tuple(argv), "--a")
    assert "--a" not in flags_of(left)
    assert flags_of(left) == {name: value for name, value in flags_of(tuple(argv)).items() if name != "--a"}
