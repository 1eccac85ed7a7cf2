from __future__ import annotations

import random

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nvfp4_studio.calibration import Prompts, conditioning_digest
from nvfp4_studio.calibration.coverage import coverage
from nvfp4_studio.calibration.prompts import KEPT, prompt_of


def of(digests: list[int]) -> Prompts:
    """One sampling after another."""
    total = Prompts()
    for digest in digests:
        total = total.merged(prompt_of(digest))
    return total


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**32), st.integers(0, 200), st.integers(1, 200), st.integers(1, 9))
def test_any_split_in_any_order_is_the_same(seed: int, samplings: int, different: int, files: int) -> None:
    draw = random.Random(seed)
    known = [draw.getrandbits(63) for _ in range(different)]
    digests = [draw.choice(known) for _ in range(samplings)]
    parts: list[list[int]] = [[] for _ in range(files)]
    for digest in draw.sample(digests, samplings):
        draw.choice(parts).append(digest)
    merged = [of(part) for part in parts]
    while len(merged) > 1:  # any grouping
        merged.append(merged.pop(draw.randrange(len(merged))).merged(merged.pop(draw.randrange(len(merged)))))
    assert merged == [of(digests)] == [Prompts(tuple(sorted(set(digests))[:KEPT]), samplings)]
    assert merged[0].count == min(len(set(digests)), 64)


def test_what_is_stored_is_read() -> None:
    draw = random.Random(0)
    for count in (1, 64, 100):
        prompts = of([draw.getrandbits(63) for _ in range(count)])
        assert Prompts.from_json(prompts.to_json(), count) == prompts
        assert Prompts.from_json(prompts.to_json(), count - 1) is None
    assert Prompts.from_json(None, 3) == Prompts()


def test_the_same_conditioning_has_the_same_digest() -> None:
    text, pooled = torch.arange(12.0).reshape(1, 3, 4), torch.ones(1, 4)
    found = conditioning_digest([text, pooled])
    assert found is not None and 0 <= found < 2**63
    assert found == conditioning_digest([text.clone(), None, pooled.clone(), "no tensor"])
    assert found == conditioning_digest([text.mT.contiguous().mT, pooled])  # the same values otherwise laid out
    others = (
        [pooled, text],
        [text],
        [text.reshape(1, 4, 3), pooled],
        [text.to(torch.int32), pooled],
        [text + 1, pooled],
    )
    assert len({found, *map(conditioning_digest, others)}) == 6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float8_e4m3fn, torch.int64, torch.bool])
def test_every_ordinary_tensor_has_a_digest(dtype: torch.dtype) -> None:
    with torch.inference_mode():
        tensors = [torch.zeros(shape).to(dtype) for shape in ((), (0,), (2, 3))]
    assert len({conditioning_digest([tensor]) for tensor in tensors}) == 3
    assert conditioning_digest([torch.nn.Parameter(torch.ones(2))]) == conditioning_digest([torch.ones(2)])


def test_what_has_no_bytes_of_its_own_has_none() -> None:
    odd = (
        torch.empty(2, device="meta"),
        torch.eye(2).to_sparse(),
        torch.ones(2, dtype=torch.complex64).conj(),
        torch.ones(2).as_subclass(type("Wrapped", (torch.Tensor,), {})),
        None,
        [torch.ones(2)],
    )
    assert conditioning_digest(odd) is None and conditioning_digest([]) is None


def advised(prompts: Prompts, samplings: int) -> tuple[tuple[str, ...], bool]:
    found = coverage(1, 1, samplings, torch.ones(2, 16, dtype=torch.int64), prompts)
    return found.recommendations, bool(found.lacking)


@pytest.mark.parametrize("samplings", [4, 7, 8, 24])
def test_one_prompt_is_too_few(samplings: int) -> None:
    sentence = f"All {samplings} samplings had the same prompt: vary it."
    assert advised(of([9] * samplings), samplings) == ((sentence,), True)


def test_few_prompts_are_too_few_when_each_had_two_samplings() -> None:
    assert advised(of([1, 2, 3] * 8), 24) == (("Only 3 prompts in 24 samplings: vary them.",), True)
    assert advised(of([1, 2] * 4), 8) == (("Only 2 prompts in 8 samplings: vary them.",), True)
    assert advised(of([1, 2] * 3 + [2]), 7) == ((), False)
    assert advised(of([1, 2, 3, 4] * 6), 24) == ((), False)
    assert advised(of(list(range(70))), 70) == ((), False)


def test_nothing_is_said_where_a_prompt_is_unknown_or_there_is_little_yet() -> None:
    assert advised(of([9] * 23), 24) == ((), False)
    assert advised(Prompts(), 24) == ((), False)
    assert advised(of([9] * 3), 3) == (("Only 3 samplings: vary prompt, seed and size.",), False)
    assert advised(Prompts(), 0) == ((), False)
