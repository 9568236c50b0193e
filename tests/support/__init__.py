"""Code that several rooms of tests share. Test modules import it and never each other."""
