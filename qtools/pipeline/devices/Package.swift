// swift-tools-version: 5.9
// An app playground: Xcode opens this folder, signs it with your team and runs it on the phone.

import AppleProductTypes
import PackageDescription

let package = Package(
    name: "QtoolsBench",
    platforms: [.iOS("16.0")],
    products: [
        .iOSApplication(
            name: "QtoolsBench", targets: ["QtoolsBench"], displayVersion: "1.0", bundleVersion: "1",
            supportedDeviceFamilies: [.pad, .phone], supportedInterfaceOrientations: [.portrait])
    ],
    targets: [
        .executableTarget(
            name: "QtoolsBench", path: ".", resources: [.copy("artifacts"), .copy("runs.json")])
    ]
)
