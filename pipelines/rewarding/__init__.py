"""Rewards for others' training: responses that arrive one by one, gathered into the groups a pairwise judge needs."""
