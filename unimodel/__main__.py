from unimodel.cli import main

main()
