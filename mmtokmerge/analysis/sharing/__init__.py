"""What token sharing (CTS) shares, costs and gains: the paper's statistics, tables and figures."""
