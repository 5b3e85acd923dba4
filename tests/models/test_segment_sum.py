import pytest
import torch

from recoach.models.segment_sum import add_segment_sums


@pytest.mark.parametrize("count", [0, 1, 200])
def test_picked_rows_are_added_with_their_weights(count):
    source = torch.Generator().manual_seed(count)
    rows = torch.randint(7, (count,), generator=source).sort().values
    which = torch.randint(5, (count,), generator=source)
    weights = torch.randn(count, dtype=torch.float64, generator=source)
    vectors = torch.randn(5, 3, dtype=torch.float64, generator=source)
    into = torch.ones(7, 3, dtype=torch.float64)
    expected = into.clone()
    for row, place, weight in zip(rows.tolist(), which.tolist(), weights.tolist(), strict=True):
        expected[row] += weight * vectors[place]
    add_segment_sums(into, rows, weights, vectors, which)
    torch.testing.assert_close(into, expected)
