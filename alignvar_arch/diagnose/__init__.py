"""What AlignVAR claims, made visible: SCA's masks, attention, picture and latent by scale, planted errors."""
