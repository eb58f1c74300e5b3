"""Looking at what an encoder has learnt."""
