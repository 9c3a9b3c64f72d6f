"""A language model that a pencil can follow: the next token depends on the last one, by a table of probabilities."""

from __future__ import annotations

import torch
from torch import nn
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from trl_nlpo.models.policy_and_value import PolicyAndValue


class MarkovConfig(PretrainedConfig):
    model_type = "markov"


class MarkovModel(PreTrainedModel, GenerationMixin):
    """`probabilities[last][next]`; its hidden state is the last token's one-hot vector."""

    config_class = MarkovConfig

    def __init__(self, probabilities: list[list[float]]):
        size = len(probabilities)
        super().__init__(MarkovConfig(vocab_size=size, num_hidden_layers=1, eos_token_id=1, tie_word_embeddings=False))
        self.embedding = nn.Embedding(size, size)
        self.head = nn.Linear(size, size, bias=False)
        self.post_init()
        self.embedding.weight.data = torch.eye(size)
        self.follow(probabilities)

    def follow(self, probabilities: list[list[float]]) -> None:
        """Change the table."""
        self.head.weight.data = torch.tensor(probabilities).log().T.contiguous()

    def _init_weights(self, module):
        pass

    def get_input_embeddings(self):
        return self.embedding

    def get_output_embeddings(self):
        return self.head

    def prepare_inputs_for_generation(self, input_ids, **kwargs):
        return {"input_ids": input_ids}

    def forward(self, input_ids, attention_mask=None, past_key_values=None, use_cache=None, **kwargs):
        return CausalLMOutputWithPast(logits=self.head(self.embedding(input_ids)))


def with_values(policy: MarkovModel, values: list[float]) -> PolicyAndValue:
    """The policy, and a value function that reads `values[last]`."""
    module = PolicyAndValue(policy)
    module.value_model.weight.data = torch.tensor([values])
    module.value_model.bias.data.zero_()
    return module
