"""What happens, in figures: for people who look at the whole."""
