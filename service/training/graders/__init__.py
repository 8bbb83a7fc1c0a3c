"""How an answer is scored: OpenAI's grader shapes. Pure."""
