"""File ops: COPY, ADD, WORKDIR and the like, planned first and then carried out."""
