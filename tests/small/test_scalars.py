"""Scalar quantisation: half a level at most is lost, and the values say what the semantic entry does not."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from models.small.scalars import ScalarQuantiser, to_codes, to_values


@given(st.lists(st.floats(-2, 2), min_size=1, max_size=9), st.integers(2, 33))
def test_a_value_is_at_most_half_a_level_off(values, levels):
    given_values = torch.tensor(values)
    codes = to_codes(given_values, levels)
    assert codes.min() >= 0 and codes.max() < levels
    torch.testing.assert_close(to_codes(to_values(codes, levels), levels), codes)
    assert (to_values(codes, levels) - given_values.clamp(-1, 1)).abs().max() <= 1 / (levels - 1) + 1e-6


def test_scalars_say_what_the_semantic_entry_does_not():
    generator = torch.Generator().manual_seed(1)
    semantic = torch.randint(4, (900,), generator=generator)
    hidden = torch.randn(900, 6, generator=generator)
    patches = 5 * torch.randn(4, 20, generator=generator)[semantic] + hidden @ torch.randn(6, 20, generator=generator)
    fine, coarse = ScalarQuantiser(4, 20, [21] * 6), ScalarQuantiser(4, 20, [3] * 6)
    (share,), (less,) = fine.fit(patches, semantic, 0), coarse.fit(patches, semantic, 0)
    assert share > 0.98 > less
    codes = fine(patches, semantic)
    assert codes.min() >= 0 and codes.max() <= 20 and codes.float().mean(0).sub(10).abs().max() < 1
    # A linear layer on the values brings the patches back: the decoder's first layer is one.
    inputs = torch.cat([to_values(codes, 21), torch.nn.functional.one_hot(semantic).float()], 1)
    rest = patches - inputs @ torch.linalg.lstsq(inputs, patches).solution
    assert rest.pow(2).sum() < 0.02 * (patches - patches.mean(0)).pow(2).sum()
