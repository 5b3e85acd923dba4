import copy

import torch
from scipy import sparse

from recoach.models.sparse_product import SparseProduct

# Row 1 is empty, column 2 is empty, the matrix is neither square nor symmetric.
DENSE = torch.tensor([[1.0, 2.0, 0.0, 0.5], [0.0, 0.0, 0.0, 0.0], [0.0, 3.0, 0.0, 0.0]])


def product():
    return SparseProduct(sparse.csr_matrix(DENSE.numpy()))


def test_it_is_the_product_with_the_dense_matrix():
    vectors = torch.arange(8.0).reshape(4, 2)
    # Row 0: 1 * (0, 1) + 2 * (2, 3) + 0.5 * (6, 7); row 2: 3 * (2, 3).
    assert product()(vectors).tolist() == [[7.0, 10.5], [0.0, 0.0], [6.0, 9.0]]


def test_the_gradient_is_the_product_with_the_transposed_matrix():
    vectors = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(product(), (vectors,))
    upstream = torch.randn(3, 3)
    (gradient,) = torch.autograd.grad(product()(vectors), vectors, upstream.double())
    assert torch.allclose(gradient, (DENSE.T @ upstream).double(), atol=1e-6)


def test_an_upstream_gradient_that_is_not_contiguous_is_accepted():
    vectors = torch.randn(4, 3, requires_grad=True)
    product()(vectors).sum().backward()  # the gradient of a sum is an expanded scalar
    assert torch.allclose(vectors.grad, DENSE.sum(dim=0)[:, None].expand(4, 3))


def test_entries_of_one_place_are_summed():
    matrix = sparse.coo_matrix(([1.0, 2.0, 4.0], ([0, 0, 0], [1, 1, 0])), shape=(1, 2))
    assert SparseProduct(matrix.tocsr())(torch.eye(2)).tolist() == [[4.0, 3.0]]


def test_copies_share_the_matrix_and_it_is_not_saved():
    matrix = product()
    assert copy.deepcopy(matrix) is matrix
    assert not matrix.state_dict()
