"""One validation set, several models, one verdict: pictures by line and model, scores, paired differences with the base."""
