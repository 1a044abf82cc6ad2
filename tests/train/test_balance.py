import torch

from cmapkd.train.balance import Balance


def test_the_settled_weight_gives_the_stated_share_of_the_final_gradient():
    w = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    losses = {"align": 3 * w[0], "fd": w[0] * 1.0, "intra_v": 0.01 * w[1]}
    weights = {"align": 1.0, "fd": 2.0, "intra_v": 10.0}
    balance = Balance({"intra_v": 0.5}, steps=100)
    for step in range(100):
        if balance.is_due(step) and step < 20:
            balance.measure(losses, weights, [w])
            balance.settle(step, weights)
    assert abs(weights["intra_v"] - 0.5 * 5.0 / 0.01) < 1e-3
    assert balance.table[0]["before"] == 10.0


def test_the_second_measure_moves_a_weight_by_three_times_at_most():
    w = torch.nn.Parameter(torch.tensor([1.0]))
    balance, weights = Balance({"intra_v": 1.0}, steps=100), {"align": 1.0, "intra_v": 1.0}
    for step in range(100):
        if balance.is_due(step):
            factor = 1.0 if step < 20 else 100.0
            balance.measure({"align": factor * w.sum(), "intra_v": w.sum()}, weights, [w])
            balance.settle(step, weights)
    assert abs(weights["intra_v"] - 3.0) < 1e-5


def test_a_term_without_gradient_keeps_its_weight():
    w = torch.nn.Parameter(torch.tensor([1.0]))
    balance, weights = Balance({"intra_v": 1.0}, steps=100), {"align": 1.0, "intra_v": 7.0}
    for step in range(20):
        if balance.is_due(step):
            balance.measure({"align": w.sum(), "intra_v": 0 * w.sum()}, weights, [w])
            balance.settle(step, weights)
    assert weights["intra_v"] == 7.0


def test_without_a_final_term_nothing_is_measured_and_weights_stay():
    w = torch.nn.Parameter(torch.ones(3))
    balance, weights = Balance({"intra_v": 0.5}, 100), {"intra_v": 10.0}
    for step in sorted(balance.due[0]):
        balance.measure({"intra_v": w.square().sum()}, weights, [w])
        assert not balance.settle(step, weights)
    assert weights == {"intra_v": 10.0} and not balance.table
