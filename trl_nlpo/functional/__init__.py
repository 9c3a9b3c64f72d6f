"""The mathematics: pure tensor functions, no models, no state.

Notation: B rows, P prompt tokens, T completion tokens, L = P + T, V vocabulary. `completion_mask` is True on real
tokens; `token_mask` is True on allowed tokens of the vocabulary.
"""
