"""What an epoch can go back to."""

import torch

from diffrl.trainer.moment import copied


def test_what_an_epoch_can_go_back_to_has_tensors_of_its_own():
    weight = torch.nn.Parameter(torch.randn(4, 3, 2, 2).to(memory_format=torch.channels_last))
    optimizer = torch.optim.AdamW([weight], betas=(0.9, 0.99))
    weight.sum().backward()
    optimizer.step()
    state = {"old": {"w": weight.detach()}, "optimizer": optimizer.state_dict(), "scaler": None}
    kept = copied(state)
    moments, others = (one["optimizer"]["state"][0] for one in (state, kept))
    pairs = [(weight, kept["old"]["w"]), *((moments[name], others[name]) for name in moments)]
    for mine, its in pairs:
        assert torch.equal(mine, its) and mine.stride() == its.stride()
        assert mine.data_ptr() != its.data_ptr() and not its.requires_grad
    groups, own = (one["optimizer"]["param_groups"] for one in (state, kept))
    assert own == groups and own[0] is not groups[0]
    assert own[0]["betas"] == (0.9, 0.99)
    assert kept["scaler"] is None and list(kept) == list(state)
