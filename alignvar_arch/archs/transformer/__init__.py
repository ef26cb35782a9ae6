"""Parts of the transformer: condition encoder, SCA, block, sampling."""
