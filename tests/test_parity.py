"""The recipe for the weights of tests/parity_small gives the numbers that its README lists."""

import pytest
import torch
from parity import assert_close_to_published, recipe_weight


@pytest.mark.parametrize(
    "key, shape, first_three",
    [
        ("time_embed.0.bias", (256,), (0.026997956, -0.00089280796, 0.016032878)),
        ("out.0.weight", (64,), (1.2581079, 0.96825796, 1.1159612)),
        ("quantize.embedding.weight", (64, 4), (-0.18610477, -0.19776341, 0.23509681)),
        ("graph_conv.net1.0.weight", (24, 48), (0.09154392, -0.54690731, -0.29471156)),
        ("input_blocks.0.0.weight", (64, 4, 3, 3), (-0.056218412, 0.034716953, -0.032108929)),
        ("time_embed.0.weight", (256, 64), (0.15647072, 0.068483479, -0.12267698)),
    ],
)
def test_the_recipe_gives_the_weights_that_its_readme_lists(key, shape, first_three):
    weight = recipe_weight(key, shape)
    assert weight.shape == shape and weight.dtype == torch.float32
    assert weight.flatten()[:3].tolist() == pytest.approx(first_three, rel=1e-7)


def test_a_relative_error_above_the_tolerance_is_a_failure():
    published = torch.tensor([1.0, -2.0])
    assert_close_to_published(published + 1e-5, published)
    with pytest.raises(AssertionError, match="relative error"):
        assert_close_to_published(published + 1e-4, published)
