"""Work in independent jobs: what runs them, and the journal that keeps what they gave."""
