import torch

from cmapkd.pyramid import levels as lv
from cmapkd.pyramid import maps
from cmapkd.pyramid.resample import area_matrix, resample_grid, resize_matrix, sample_at


def test_block_groups_follow_the_proportions_of_depth():
    assert lv.tap_blocks(12, lv.IMAGE_CUTS) == [2, 7, 11]
    assert lv.tap_blocks(24, lv.IMAGE_CUTS) == [5, 15, 23]
    assert lv.tap_blocks(12, lv.TEXT_CUTS) == [3, 7, 11]


def test_any_depth_gives_taps_that_rise_to_the_last_block():
    for depth in range(3, 40):
        for cuts in (lv.IMAGE_CUTS, lv.TEXT_CUTS):
            taps = lv.tap_blocks(depth, cuts)
            assert taps == sorted(set(taps)) and taps[-1] == depth - 1


def test_last_level_is_the_pooled_map_then_summary_then_mean():
    patches, summary = torch.randn(2, 16, 5), torch.randn(2, 5)
    level = maps.last_level(patches, summary, 2)
    expected = patches.unflatten(1, (2, 2, 2, 2)).mean((2, 4)).flatten(1, 2)
    torch.testing.assert_close(level[:, :4], expected)
    torch.testing.assert_close(level[:, 4], summary)
    torch.testing.assert_close(level[:, 5], patches.mean(1))


def test_word_means_ignore_padding_and_other_words():
    words = torch.tensor([[-1, 0, 0, 1, 3, -1, -1]])
    tokens = torch.randn(1, 7, 3)
    mean, mask = lv.pool_words(tokens, words, 4)
    assert mask.tolist() == [[True, True, False, True]]
    torch.testing.assert_close(mean[0, 0], tokens[0, 1:3].mean(0))
    torch.testing.assert_close(mean[0, 3], tokens[0, 4])
    changed = tokens.clone()
    changed[0, 5:] = 99
    torch.testing.assert_close(lv.pool_words(changed, words, 4)[0], mean)


def test_phrases_are_windows_of_three_words():
    words = torch.tensor([[0, 1, 2, 3, 4, -1]])
    tokens = torch.randn(1, 6, 3)
    mean, mask = lv.pool_words(tokens, words, 2, lv.PHRASE)
    torch.testing.assert_close(mean[0, 0], tokens[0, :3].mean(0))
    torch.testing.assert_close(mean[0, 1], tokens[0, 3:5].mean(0))
    assert mask.all()


def test_words_beyond_the_count_enter_nowhere():
    words = torch.tensor([[0, 1, 2, 3]])
    mean, mask = lv.pool_words(torch.ones(1, 4, 2), words, 2)
    assert mean.shape == (1, 2, 2) and mask.all()


def test_area_matrix_rows_sum_to_one_and_cover_all_cells():
    matrix = area_matrix(16, 14)
    torch.testing.assert_close(matrix.sum(1), torch.ones(14).double())
    torch.testing.assert_close(matrix.sum(0), torch.full((16,), 14 / 16).double())


def test_pooled_features_of_an_empty_text_are_finite():
    mask = torch.zeros(2, 3, dtype=torch.bool)
    assert lv.mean_max(torch.randn(2, 3, 4), mask).isfinite().all()


def pooled_both_ways(given, mask):
    """[(value, gradient)] of the fast and of the naive pooling of `given` under one random pull."""
    pull = torch.randn(len(given), 2 * given.shape[-1], generator=torch.Generator().manual_seed(1)).to(given)
    results = []
    for pool in (lv.MeanMax.apply, lv.naive_mean_max):
        tokens = given.clone().requires_grad_()
        value = pool(tokens, mask)
        results.append((value, torch.autograd.grad(value, tokens, pull)[0]))
    return results


def test_the_pooled_level_has_the_bits_of_the_naive_one_in_value_and_gradient():
    given = torch.randn(5, 7, 4, generator=torch.Generator().manual_seed(0))
    real = torch.arange(7)[None] < torch.tensor([7, 1, 0, 3, 5])[:, None]
    for mask in (None, real):
        for dtype in (torch.float32, torch.bfloat16, torch.float64):
            fast, naive = pooled_both_ways(given.to(dtype), mask)
            assert torch.equal(fast[0], naive[0]) and torch.equal(fast[1], naive[1])
            assert fast[1].dtype == dtype and fast[1].abs().sum() > 0


def test_tokens_with_the_same_largest_value_share_its_gradient():
    given = torch.tensor([0.0, 2, 2, 2, 2])[None, :, None].repeat(1, 1, 3)
    for mask in (None, torch.tensor([[True, True, False, True, True]])):
        fast, naive = pooled_both_ways(given, mask)
        torch.testing.assert_close(fast, naive)
        assert torch.equal(fast[1][:, 1], fast[1][:, 3])


def test_a_map_is_resampled_like_the_sum_over_all_its_cells():
    for n, side in ((8, 4), (7, 4), (4, 8)):
        matrix, tokens = resize_matrix(n, side).float(), torch.randn(3, n * n, 5)
        naive = torch.einsum("hm,bmnd,gn->bhgd", matrix, tokens.unflatten(1, (n, n)), matrix).flatten(1, 2)
        torch.testing.assert_close(resample_grid(tokens, matrix), naive)


def test_sampling_a_map_at_its_own_cells_is_a_gather_and_elsewhere_is_bilinear():
    tokens = torch.randn(1, 16, 3)
    places = torch.tensor([[5, 0, 15]])
    torch.testing.assert_close(sample_at(tokens, places, 4), tokens[:, [5, 0, 15]])
    fine = sample_at(tokens, torch.tensor([[9]]), 8)  # row 1, column 1 of 8: a quarter cell from the first centre
    w = torch.tensor([0.75, 0.25])
    expected = torch.einsum("r,c,rcd->d", w, w, tokens.unflatten(1, (4, 4))[0, :2, :2])
    torch.testing.assert_close(fine[0, 0], expected)
