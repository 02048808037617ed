module get

go 1.19
