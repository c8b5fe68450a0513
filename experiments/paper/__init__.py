"""The figures and tables of the paper and the ablations, one module each; `experiments.run` trains and shows them."""
