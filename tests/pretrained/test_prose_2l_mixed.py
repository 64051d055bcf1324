"""`prose-2l-mixed` is what it was made to be: it continues what it has seen before, words and random tokens alike."""

import torch

from pellucid import HookedTransformer
from pellucid.analysis.heads import INDUCTION, role_scores
from pellucid.analysis.repeated import repeated_tokens

TEXT = """\
The ferry was late again. Tobias set his basket down upon the wet boards and counted the lamps across the river, of
which there were nine, or ten if one believed in the faint one above the mill. Nobody else was waiting. A heron stood
in the shallows like a gentleman who has forgotten why he came out, and the rain, which had promised all afternoon to
leave off, went on falling with great patience upon both of them.

"You might at least look sorry," said Tobias to the heron. He thought of the letter in his coat, and of his aunt, who
would read it by the stove with her spectacles pushed up, and say nothing for a long while, and then ask whether the
hens had been fed. When at last the bell sounded from the farther bank he found that he had grown quite fond of the
cold, and was unwilling to be carried away from it.
"""
"""Written for this test: the model cannot have read it."""
LENGTH = 40


@torch.no_grad()
def test_it_has_an_induction_head_and_predicts_the_second_copy_of_new_text_better():
    model = HookedTransformer.from_pretrained("prose-2l-mixed", device="cpu")
    scores = role_scores(model, repeated_tokens(model, seq_len=25, batch=32, seed=7), [INDUCTION])
    assert (scores.score - scores.control).best().item() > 0.2
    words = model.to_tokens(TEXT, prepend_bos=False)[0]
    passages = words[: len(words) // LENGTH * LENGTH].view(-1, LENGTH)
    assert len(passages) >= 4
    bos = torch.full((len(passages), 1), model.tokenizer.bos_token_id)
    losses = model(torch.cat([bos, passages, passages], dim=1), return_type="loss", loss_per_token=True)
    assert (losses[:, 1:LENGTH] - losses[:, LENGTH + 1 :]).mean() > 0
