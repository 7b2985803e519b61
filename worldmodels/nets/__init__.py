"""Networks and distributions that know no world model, one file each. No losses of a training."""
