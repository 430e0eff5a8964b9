"""The judging core: a question and two responses, or more of them, to a decision or a ranking."""
