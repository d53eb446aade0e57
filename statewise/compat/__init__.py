"""The published commands of PromptCoT-Mamba, flag by flag, on top of Statewise.

`compat/infer_longcot.py`, `calc_acc_aime.py` and `calc_acc_lcb.py` call the modules here. They
read and write the published JSONL fields (with some more), and differ on purpose where the
originals are wrong: docs/evaluation.md says where.
"""
