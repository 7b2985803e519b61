"""Networks that know no world model: layers, encoders, decoders, distributions. No losses of a training."""
