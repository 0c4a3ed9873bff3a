# syntax=docker/dockerfile:1
# The image as `make image` makes it, for those who build with Docker.
FROM golang:1.26-bookworm AS build
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
ARG VERSION=dev
ARG TARGETOS TARGETARCH
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/berth ./cmd/berth \
 && mkdir -p /out/data /out/tmp && chmod 1777 /out/tmp \
 && printf 'root:x:0:0:root:/:/sbin/nologin\nberth:x:65532:65532:berth:/data:/sbin/nologin\n' > /out/passwd

FROM scratch
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /out/passwd /etc/passwd
COPY --from=build --chown=65532:65532 /out/data /data
COPY --from=build /out/tmp /tmp
COPY --from=build /out/berth /berth
USER 65532:65532
WORKDIR /data
ENV PATH=/ HOME=/data BERTH_DATA_DIR=/data
EXPOSE 5000
VOLUME /data
ENTRYPOINT ["/berth"]
CMD ["serve"]
