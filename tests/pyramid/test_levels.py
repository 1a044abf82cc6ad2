import torch

from cmapkd.pyramid import levels as lv
from cmapkd.pyramid import maps
from cmapkd.pyramid.resample import area_matrix, sample_at


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


def test_sampling_a_map_at_its_own_cells_is_a_gather_and_elsewhere_is_bilinear():
    tokens = torch.randn(1, 16, 3)
    places = torch.tensor([[5, 0, 15]])
    torch.testing.assert_close(sample_at(tokens, places, 4), tokens[:, [5, 0, 15]])
    fine = sample_at(tokens, torch.tensor([[9]]), 8)  # row 1, column 1 of 8: a quarter cell from the first centre
    w = torch.tensor([0.75, 0.25])
    expected = torch.einsum("r,c,rcd->d", w, w, tokens.unflatten(1, (4, 4))[0, :2, :2])
    torch.testing.assert_close(fine[0, 0], expected)
