import copy

import pytest
import torch
import torch.nn.functional as F

from pellucid.base.errors import ConfigError, TrainingError
from pellucid.base.seeds import generator
from pellucid.model.attention import AttentionConfig
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.train.loop import Training
from pellucid.train.optimiser import Optimiser
from pellucid.train.schedule import Schedule
from pellucid.train.sequences import IGNORED, PeriodicSequences
from pellucid.train.stream import Drawn

CONFIG = Config(n_layers=1, d_model=16, d_vocab=12, n_ctx=12, attention=AttentionConfig(n_heads=2, d_head=8))
SEQUENCES = PeriodicSequences(d_vocab=12, length=12, shortest=2, longest=4)


def training(model=None, *, steps=20, batch=8, seed=0, warmup=5, parts=1, precision="float32", **optimiser):
    return Training(
        Decoder(CONFIG, seed=0) if model is None else model,
        Drawn(SEQUENCES, batch=batch, seed=seed),
        steps=steps,
        optimiser=Optimiser(**{"lr": 3e-3, **optimiser}),
        schedule=Schedule(warmup=warmup),
        parts=parts,
        precision=precision,
    )


def taken(run, steps=None):
    """The losses of some steps."""
    for _ in range(run.steps - run.step if steps is None else steps):
        run.advance()
    return [one.loss for one in run.told()]


def test_the_loss_falls():
    losses = taken(training(steps=60, lr=1e-2))
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_same_seeds_train_the_same_model():
    runs = [training(seed=seed) for seed in (3, 3, 4)]
    losses, again, other = map(taken, runs)
    assert losses == again and torch.equal(runs[0].model.W_U, runs[1].model.W_U)
    assert losses != other


def test_steps_are_those_of_a_plain_loop():
    run = training(Decoder(CONFIG, seed=0).double(), weight_decay=0.1, decayed="everything", clip=0.5)
    losses = taken(run)
    model = Decoder(CONFIG, seed=0).double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3, betas=(0.9, 0.98), weight_decay=0.1)
    draws, schedule = generator(0), Schedule(warmup=5)
    for step in range(20):
        tokens, targets, _ = SEQUENCES.draw(8, draws)
        counts = targets != IGNORED
        loss = F.nll_loss(model(tokens).log_softmax(-1)[counts], targets[counts])
        assert losses[step] == pytest.approx(loss.item(), rel=1e-9)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.param_groups[0]["lr"] = 3e-3 * schedule.rate(step, 20)
        optimizer.step()
    for ours, theirs in zip(run.model.parameters(), model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_a_gradient_is_cut_to_the_longest_allowed():
    run = training(clip=1e-3)
    run.advance()
    total = sum(p.grad.square().sum() for p in run.model.parameters()).sqrt()
    assert total == pytest.approx(1e-3, rel=1e-2)


def test_a_batch_in_parts_moves_the_weights_alike():
    whole, parted = (training(Decoder(CONFIG, seed=0).double(), parts=parts) for parts in (1, 4))
    assert taken(whole) == pytest.approx(taken(parted), rel=1e-9)
    for ours, theirs in zip(whole.model.parameters(), parted.model.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-7)


def test_what_goes_on_from_a_state_is_bit_equal():
    through, first = training(), training()
    taken(first, 7)
    state, weights = first.state(), copy.deepcopy(first.model.state_dict())
    second = training(Decoder(CONFIG, seed=5), seed=9)
    second.model.load_state_dict(weights)
    second.restore({name: x.clone() for name, x in state.items()})
    assert taken(through)[7:] == taken(second)
    for ours, theirs in zip(through.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_each_step_is_told_once_with_its_rate_and_its_tokens():
    run = training()
    taken(run, 3)
    run.advance()
    (told,) = run.told()
    assert (told.step, told.tokens) == (4, 96)
    assert told.lr == pytest.approx(3e-3 * 4 / 6)
    assert run.told() == []


def test_bfloat16_products_give_nearly_the_same_losses_and_float32_weights():
    exact, rough = training(), training(precision="bfloat16")
    losses, others = taken(exact), taken(rough)
    assert losses != others and losses == pytest.approx(others, rel=0.05)
    assert {p.dtype for p in rough.model.parameters()} == {torch.float32}


def test_a_loss_that_is_no_number_stops_the_run_and_tells_where():
    run = training()
    taken(run, 4)
    with torch.no_grad():
        run.model.W_U[0, 0] = torch.nan
    for _ in range(3):
        run.advance()
    with pytest.raises(TrainingError, match=r"got nan at step 5 of 20, .*smaller optimiser.lr"):
        run.told()


def test_weights_that_are_no_numbers_are_told_by_name():
    run = training()
    run.check_weights()
    with torch.no_grad():
        run.model.blocks[0].attn.b_K[0] = torch.inf
    with pytest.raises(TrainingError, match=r"blocks.0.attn.b_K is not after step 0 of 20"):
        run.check_weights()


def test_a_batch_that_cannot_be_split_is_refused():
    with pytest.raises(ConfigError, match="batch_size must be a multiple of parts × processes = 3 × 1, got 8"):
        training(parts=3)
