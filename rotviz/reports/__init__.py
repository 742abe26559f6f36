"""Stored runs for a reader: tables, figures, and a whole run or comparison as a file. No Streamlit."""
