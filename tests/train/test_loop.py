import pytest
import torch
import torch.nn.functional as F

from pellucid.base.errors import ConfigError
from pellucid.base.seeds import generator
from pellucid.model.attention import AttentionConfig
from pellucid.model.config import Config
from pellucid.model.decoder import Decoder
from pellucid.train.loop import Schedule, train
from pellucid.train.sequences import IGNORED, PeriodicSequences

CONFIG = Config(n_layers=1, d_model=16, d_vocab=12, n_ctx=12, attention=AttentionConfig(n_heads=2, d_head=8))
SEQUENCES = PeriodicSequences(d_vocab=12, length=12, shortest=2, longest=4)


def schedule(**changes) -> Schedule:
    return Schedule(**{"steps": 20, "batch": 8, "lr": 3e-3, "warmup": 5, **changes})


def test_the_loss_falls():
    losses = train(Decoder(CONFIG, seed=0), SEQUENCES.draw, schedule(steps=60, lr=1e-2))
    assert len(losses) == 60
    assert sum(losses[-10:]) < 0.9 * sum(losses[:10])


def test_the_same_seeds_train_the_same_model():
    def trained(seed):
        model = Decoder(CONFIG, seed=1)
        return train(model, SEQUENCES.draw, schedule(seed=seed)), model.W_U

    (losses, first), (again, second), (other, _) = trained(3), trained(3), trained(4)
    assert losses == again and torch.equal(first, second)
    assert losses != other


def test_the_first_step_is_adamw_on_the_mean_loss_of_what_counts():
    plan = schedule(steps=1, warmup=0, weight_decay=0.1, clip=1e9)
    model, by_hand = Decoder(CONFIG, seed=0), Decoder(CONFIG, seed=0)
    (loss,) = train(model, SEQUENCES.draw, plan)
    tokens, targets = SEQUENCES.draw(plan.batch, generator(plan.seed))
    counts = targets != IGNORED
    log_probs = by_hand(tokens).log_softmax(-1)
    expected = F.nll_loss(log_probs[counts], targets[counts])
    torch.testing.assert_close(loss, expected.item())
    optimizer = torch.optim.AdamW(by_hand.parameters(), lr=plan.lr, betas=plan.betas, weight_decay=0.1)
    expected.backward()
    optimizer.step()
    for ours, theirs in zip(model.parameters(), by_hand.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_a_gradient_is_cut_to_the_longest_allowed():
    model = Decoder(CONFIG, seed=0)
    train(model, SEQUENCES.draw, schedule(steps=1, warmup=0, clip=1e-3))
    total = sum(p.grad.square().sum() for p in model.parameters()).sqrt()
    assert total == pytest.approx(1e-3, rel=1e-2)


def test_the_rate_rises_and_falls_in_straight_lines():
    plan = schedule(steps=10, warmup=4)
    rates = [plan.rate(step) for step in range(10)]
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6])


def test_each_step_is_told_with_its_loss():
    told = []
    losses = train(
        Decoder(CONFIG, seed=0), SEQUENCES.draw, schedule(), on_step=lambda step, loss: told.append((step, loss))
    )
    assert told == list(enumerate(losses))


@pytest.mark.parametrize("change", [{"steps": 0}, {"batch": 0}, {"warmup": 20}, {"warmup": -1}])
def test_a_schedule_that_cannot_be_is_refused(change):
    with pytest.raises(ConfigError, match="0 ≤ warmup < steps"):
        schedule(**change)
