"""What tests share: tiny models, made-up runs, processes; never a test."""
