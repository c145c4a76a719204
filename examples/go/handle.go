package main

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
)

// temporary is an error after which the task is tried again.
type temporary struct{ error }

func handle(payload []byte, progress func(current, total int)) (any, error) {
	var input struct{ URLs []string }
	if err := json.Unmarshal(payload, &input); err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for index, url := range input.URLs {
		sum, err := fetch(url)
		if err != nil {
			return nil, err
		}
		sums[url] = sum
		progress(index+1, len(input.URLs))
	}
	return sums, nil
}

func fetch(url string) (string, error) {
	response, err := http.Get(url)
	if err != nil {
		return "", temporary{err}
	}
	defer response.Body.Close()
	if response.StatusCode != http.StatusOK {
		return "", fmt.Errorf("%s: HTTP status %d", url, response.StatusCode)
	}
	hash := sha256.New()
	if _, err := io.Copy(hash, response.Body); err != nil {
		return "", temporary{err}
	}
	return fmt.Sprintf("%x", hash.Sum(nil)), nil
}
