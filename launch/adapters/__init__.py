"""The judge as the reward of others' training: what TRL and veRL call. OpenRLHF and NeMo Gym ask `pipelines.reward`."""
