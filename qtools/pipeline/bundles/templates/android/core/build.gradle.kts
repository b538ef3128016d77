// Plain Kotlin: what depends on the contract alone. It runs on any JVM, and so do its tests.
plugins {
    id("org.jetbrains.kotlin.jvm")
}

kotlin {
    compilerOptions {
        jvmTarget = org.jetbrains.kotlin.gradle.dsl.JvmTarget.JVM_11
    }
}

java {
    sourceCompatibility = JavaVersion.VERSION_11
    targetCompatibility = JavaVersion.VERSION_11
}

dependencies {
    testImplementation("junit:junit:4.13.2")
}

// The vectors lie among the files of the other module's test: a change there has to run these tests again.
tasks.test {
    inputs.dir("../vision/src/main/assets")
    inputs.dir("../vision/src/androidTest/assets")
}
