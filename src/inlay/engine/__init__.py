"""A build from request to result. `build` is the story; the others are its chapters."""
