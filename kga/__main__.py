from kga.cli import main

main()
