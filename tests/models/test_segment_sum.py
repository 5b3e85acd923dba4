import pytest
import torch

from recoach.models.segments import add_segment_sums


@pytest.mark.parametrize("count", [0, 1, 200])
def test_weighted_rows_are_added_to_their_segments(count):
    generator = torch.Generator().manual_seed(count)
    rows = torch.randint(7, (count,), generator=generator).sort().values
    index = torch.randint(5, (count,), generator=generator)
    weights = torch.randn(count, dtype=torch.float64, generator=generator)
    vectors = torch.randn(5, 3, dtype=torch.float64, generator=generator)
    out = torch.ones(7, 3, dtype=torch.float64)
    expected = out.clone()
    for row, source, weight in zip(rows.tolist(), index.tolist(), weights.tolist(), strict=True):
        expected[row] += weight * vectors[source]
    add_segment_sums(out, rows, weights, vectors, index)
    torch.testing.assert_close(out, expected)
