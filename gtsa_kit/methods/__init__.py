"""Self-supervised methods: GTSA and the ones that it is compared with."""
