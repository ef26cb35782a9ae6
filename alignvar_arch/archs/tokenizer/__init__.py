"""Parts of the tokenizer: encoder and decoder, and the residual pyramid between them."""
