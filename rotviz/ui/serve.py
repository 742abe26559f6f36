"""python -m rotviz.ui.serve: Streamlit on app.py, told before the first visitor that app.py is the router.

Streamlit takes a folder named pages/ for its old automatic discovery until a script has called st.navigation once. A server whose first
visitor follows a link to a page would show that page alone, without the frame. Saying so beforehand makes every link work from the first
request on; `streamlit run app.py` works as well, once somebody has opened the start page.
"""

import sys
from pathlib import Path

from streamlit.runtime.pages_manager import PagesManager
from streamlit.web.cli import main

SERVED = Path(__file__).with_name("asgi.py")

if __name__ == "__main__":
    PagesManager.uses_pages_directory = False
    sys.exit(main(["run", str(SERVED), *sys.argv[1:]]))
